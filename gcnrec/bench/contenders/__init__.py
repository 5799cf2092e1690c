"""What the benches of whole steps train: our tables and tables of peers."""
