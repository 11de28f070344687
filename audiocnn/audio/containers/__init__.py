"""The containers of recordings: WAV, FLAC, OGG and MP3."""
