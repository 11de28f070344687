"""Export labels for other programs."""
