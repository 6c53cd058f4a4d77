"""Metrics of one scorer on one benchmark, and of several scorers on the same rows."""
