"""The contenders of benches of whole steps: our tables and tables of peers."""
