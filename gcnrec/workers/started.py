"""The first program of a follower that a leader starts: it ends with the leader from now on, also while what it runs still loads.

    python -m gcnrec.workers.started LEADER MODULE

LEADER is the number of the process that leads.

Torch alone takes seconds to load; this file imports nothing that is large.
"""

from __future__ import annotations

import runpy
import signal
import sys

from gcnrec.system.signals import end_with_parent


def main() -> None:
    """Run the module that the command names, as `python -m` does."""
    end_with_parent(int(sys.argv[1]), signal.SIGKILL)
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
