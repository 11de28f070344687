"""Verbs that are no jobs of their own: demo, submit, doctor."""
