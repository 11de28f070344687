"""Log-mel spectrograms -> scores: the network, its bundle, and what uses it."""
