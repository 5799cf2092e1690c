"""From a job and a dataset to a finished run, and what validation chooses on the way."""
