"""The commands, which parse and print. Each imports its work inside itself, so that `gcnrec --help` starts fast."""
