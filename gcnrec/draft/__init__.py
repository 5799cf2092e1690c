"""A first job for a Parquet that nobody has described: what its columns hold, which of them are what, and the job file."""
