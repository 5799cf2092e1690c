"""The search for races itself: which variants of a kernel file it runs, and what it says of their outcomes."""

from __future__ import annotations

import re

import pytest

from gcnrec.cuda import module
from jobs.measure.gpu.kernels import races

WHOLE, BARRIER = races.Variant("a.cu", ""), races.Variant("a.cu", "", 7, "__syncwarp(tile.mask);  // the sum is read")
KEPT = races.Variant("a.cu", "", 7, "__syncwarp(tile.mask);  // kept: lanes may run apart")


@pytest.mark.parametrize(
    ("variant", "race", "sentence"),
    [
        (WHOLE, False, None),
        (WHOLE, True, "a.cu has a data race"),
        (BARRIER, True, None),
        (BARRIER, False, "a.cu:7: a race is not found without this barrier, and no comment says why it stays"),
        (KEPT, False, None),
        (KEPT, True, "a.cu:7: a race is found without this barrier, though its comment says that none is"),
    ],
)
def test_outcomes(variant, race, sentence):
    said = races.problem(variant, race)
    assert (said is None) == (sentence is None) and (said or "").startswith(sentence or "")


def test_each_barrier_is_left_out_once():
    found = list(races.variants("update.cu"))
    text = (module.FOLDER / "update.cu").read_text(encoding="utf-8")
    assert found[0] == races.Variant("update.cu", text) and len(found) == 4
    lines = text.splitlines()
    for variant in found[1:]:
        changed = [k for k, (old, new) in enumerate(zip(lines, variant.text.splitlines(), strict=True), 1) if old != new]
        assert changed == [variant.line]
        assert "__syncwarp" in lines[variant.line - 1] and variant.text.splitlines()[variant.line - 1].lstrip().startswith(
            "(void)0;"
        )


def test_every_file_that_shares_memory_has_a_case():
    shares = re.compile(r"__shared__|__sync|atomic[A-Z]")
    files = {path.name for path in module.FOLDER.glob("*.cu") if shares.search(path.read_text(encoding="utf-8"))}
    assert files == {*races.known()}
    headers = [path.name for path in module.FOLDER.glob("*.cuh") if "__sync" in path.read_text(encoding="utf-8")]
    assert headers == [], "only files are run without their barriers"
