"""Tables that workers train together. By rows: `exchanged` is the table of a step, `plan` who asks whom for rows, `wire` what
travels of them, `shards` how rows go to workers and back, `staged` all of it where devices train. By columns: `columns`. `table`
is what both have in common."""
