"""Labelled recordings -> clips with folds."""
