"""Positives, negatives and neighbourhoods of a batch."""
