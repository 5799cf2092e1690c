"""Folders and files at an address such as s3://bucket/runs/shop: staged on this machine, then uploaded; fetched to be read."""
