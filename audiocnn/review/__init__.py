"""Look through labels, search them and correct them."""
