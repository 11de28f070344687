"""Predictions -> metrics, figures and the report."""
