"""The endpoint: predictions and the model's inside over HTTP, on Ray Serve."""
