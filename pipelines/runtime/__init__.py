"""What all jobs use of Ray, of the terminal and of the metrics."""
