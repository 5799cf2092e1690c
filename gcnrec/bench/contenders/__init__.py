"""What the benches of whole steps train: our tables, and those of peers."""
