"""What a shop asks of a run besides lists for its users."""
