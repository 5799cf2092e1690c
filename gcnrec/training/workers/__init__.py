"""What workers share of a run: its parts, what is refused for several, and what those that do not lead do."""
