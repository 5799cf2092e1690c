"""Single files: written whole or not at all, read within bounds, locked, streamed."""
