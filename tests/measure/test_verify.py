"""The program that times verification: its files are whole, and a second command is a command that remembers."""

from __future__ import annotations

from gcnrec.integrity.digests import sha256_of
from jobs.measure import verify


def test_files_are_as_listed_and_every_row_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "_SETTLE_SECONDS", 2.1)
    rows = verify.measured(tmp_path, 200_000, repeats=1)
    assert [(row["what"], row["bytes"]) for row in rows[1:]] == [
        ("files one after the other, one thread", 200_000),
        ("files on two threads", 200_000),
        ("first command", 200_000),
        ("second command", 200_000),
    ]
    sizes = {name: (tmp_path / name).stat().st_size for name in verify.SHARES}
    assert sum(sizes.values()) == 200_000 and len({sha256_of(tmp_path / name) for name in sizes}) == 4
    assert all(row["seconds"] > 0 for row in rows)
