"""Rows and files: reading, writing, filtering."""
