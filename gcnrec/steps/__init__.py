"""A stage of training: the start of a table, steps, epochs, explorations."""
