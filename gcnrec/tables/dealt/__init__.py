"""Tables whose rows are dealt out to workers: `exchanged` is the table of a step, `shards` how rows go to workers and back."""
