"""The scorers, one file each, and what only scorers share."""
