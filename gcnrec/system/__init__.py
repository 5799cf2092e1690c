"""What the machine gives and refuses: limits of memory, scratch space, signals, progress, the doctor."""
