"""The job that trains a model on features."""
