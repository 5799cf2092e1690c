"""A follower for tests that trains behind a fake device and exchanges rows as devices do, by gloo in the place of NCCL."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fake_device import stand_for_gpus

from gcnrec.commands import workers
from gcnrec.workers import world


def stand_for_nccl(patch: pytest.MonkeyPatch) -> None:
    """Rows of the CPU are exchanged as rows of GPUs are."""
    patch.setattr(world, "DIRECT", {"cpu": "gloo"})


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        stand_for_gpus(patch)
        stand_for_nccl(patch)
        workers.main()
