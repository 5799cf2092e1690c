"""Models: what turns table rows and a graph into scores."""
