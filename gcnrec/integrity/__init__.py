"""Files are what was written: digests, and what this user has verified before."""
