"""Recordings -> answers: decoding, the model, and the labels that are looked through."""
