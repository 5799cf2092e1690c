"""The files of ids that come with a command, and what of them counts."""
