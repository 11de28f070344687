"""The job that labels a bucket."""
