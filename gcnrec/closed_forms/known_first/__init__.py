"""Models that list items of the user's own first: README.md."""
