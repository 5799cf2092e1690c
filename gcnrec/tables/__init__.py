"""Rows and their optimizer state, wherever they lie, and the update rules."""
