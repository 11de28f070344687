"""Training: features -> weights."""
