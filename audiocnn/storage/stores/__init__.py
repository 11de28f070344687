"""The kinds of store: local files, S3, and the other stores that fsspec supports."""
