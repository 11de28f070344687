"""Helpers that all jobs share: Ray sessions, errors, terminal output and metrics."""
