"""`reading` turns what a parser raises into one sentence, and lets everything else pass."""

from __future__ import annotations

import errno

import pytest

from gcnrec.errors import DataError, Terminated, Unforeseen, UsageError, reading


def test_unforeseen_becomes_sentence() -> None:
    with (
        pytest.raises(Unforeseen, match=r"^a\.json cannot be read \(AttributeError: no pop\); train again$"),
        reading("a.json", "train again"),
    ):
        raise AttributeError("no pop.\nmore")


def test_system_error_names_reason_and_remedy() -> None:
    with (
        pytest.raises(DataError, match=r"a cannot be read \(Input/output error\); check the disk, or train again") as caught,
        reading("a", "train again"),
    ):
        raise OSError(errno.EIO, "Input/output error")
    assert not isinstance(caught.value, Unforeseen)


@pytest.mark.parametrize("problem", [UsageError("u"), Terminated("t"), MemoryError("m"), KeyboardInterrupt("k")])
def test_others_pass(problem: BaseException) -> None:
    with pytest.raises(type(problem)) as caught, reading("a", "train again"):
        raise problem
    assert caught.value is problem


def test_interrupted_parser_is_ctrl_c() -> None:
    with pytest.raises(KeyboardInterrupt), reading("a", "train again"):
        raise RuntimeError("Query interrupted")
