"""The budget of stored values, and which cells are stored."""
