"""Verbs that have no job of their own: demo, submit, doctor."""
