"""Engines complete text. Nothing here knows what a judgment is."""
