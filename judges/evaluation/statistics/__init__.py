"""Intervals, the bootstrap, and paired significance tests over a benchmark."""
