"""`python -m gcnrec` is `gcnrec`."""

from gcnrec.cli import main

main()
