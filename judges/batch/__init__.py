"""A file of responses to a file of scores, with nothing lost."""
