"""What a stopped command says about going on."""

from __future__ import annotations

import signal

import pytest

from gcnrec.errors import Terminated
from gcnrec.system.signals import stops


def test_a_run_that_has_not_begun_is_not_to_be_resumed(tmp_path):
    for expected in ("before .* was begun; start the same command again", "continue .* with --resume"):
        with pytest.raises(Terminated, match=expected), stops(tmp_path / "run"):
            signal.raise_signal(signal.SIGTERM)
        (tmp_path / "run").mkdir(exist_ok=True)
