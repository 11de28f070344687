"""Readers of the containers of recordings: WAV, FLAC, OGG and MP3."""
