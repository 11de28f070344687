"""The ways in which corpora lie in folders."""
