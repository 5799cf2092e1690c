"""What parts of a run cost, predicted before they run."""
