"""Read labelled recordings as clips with folds."""
