"""Log-mel spectrograms -> scores: the network, its bundle, predictions and explanations."""
