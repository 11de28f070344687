"""Encoded bytes -> mono windows of samples."""
