"""The job that makes features of a corpus."""
