"""The Arrow types of ids."""
