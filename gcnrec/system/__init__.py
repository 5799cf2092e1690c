"""What the machine gives and refuses: files, locks, limits of memory, scratch space, signals, the doctor."""
