"""The functions of `gcnrec`: paths as text or `Path`, tables in and out of memory, progress in notebooks."""
