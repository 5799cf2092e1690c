"""A first job for Parquet without a card: what its columns hold, which roles they have, and the job file."""
