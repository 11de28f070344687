"""The layouts in which corpora are stored in folders."""
