"""Decode encoded bytes into mono windows of samples."""
