"""Scores to lists, lists to metrics."""
