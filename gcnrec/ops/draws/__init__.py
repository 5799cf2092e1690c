"""Draws: neighbours, negatives and walks, equal on any number of threads."""
