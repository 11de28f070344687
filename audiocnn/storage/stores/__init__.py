"""The kinds of store: local files, S3, and whatever else fsspec reaches."""
