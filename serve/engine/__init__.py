"""Recordings -> answers: decoding, the model, and the labels to browse."""
