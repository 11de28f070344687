"""Features -> weights."""
