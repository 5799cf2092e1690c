"""Held-out pairs that count apart, or count more: README.md."""
