"""Clips -> log-mel spectrograms in Parquet."""
