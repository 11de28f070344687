"""The job that computes the features of a corpus."""
