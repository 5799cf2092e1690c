"""Users ranked by one worker of each machine: README.md."""
