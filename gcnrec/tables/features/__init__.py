"""Features of nodes as tables that are read and never written."""
