"""metrics.jsonl line by line: what was written comes back, what was changed or is no event is one sentence with its line."""

from __future__ import annotations

import json
import os

import pytest

from gcnrec.errors import DataError
from gcnrec.runs.contents import RunContents
from gcnrec.runs.events import Epoch, append_event, keep_events, lost_epochs, read_events, read_lines

EPOCH = {
    "event": "epoch",
    "stage": "fit",
    "epoch": 1,
    "step": 4,
    "seconds": 0.1 + 0.2,
    "loss": 1e-300,
    "valid": {"recall@5": 0.25},
}
NOTE = {"event": "note", "text": "decided"}


@pytest.fixture
def events(tmp_path):
    append_event(tmp_path, EPOCH)
    append_event(tmp_path, NOTE)
    return tmp_path / "metrics.jsonl"


def test_what_was_written_comes_back(events):
    assert read_lines(events.parent) == [EPOCH, NOTE]
    assert json.loads(events.read_text().splitlines()[1]).keys() == {*NOTE, "crc32"}
    first, second = read_events(events.parent)
    assert isinstance(first, Epoch) and first.valid == {"recall@5": 0.25} and second.text == "decided"


def test_lines_of_earlier_versions_have_no_checksum(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(EPOCH)}\n\n{json.dumps(NOTE)}\n")
    assert read_lines(tmp_path) == [EPOCH, NOTE]


def test_every_changed_digit_or_letter_is_noticed(events):
    whole = events.read_bytes()
    for place in range(len(whole) - 1):
        changed = bytearray(whole)
        changed[place] ^= 1
        events.write_bytes(changed)
        for found, written in zip(read_or_sentence(events) or [], [EPOCH, NOTE], strict=False):
            assert {name: found.get(name) for name in written} == written  # the name of the checksum may be another


def read_or_sentence(path):
    try:
        return read_lines(path.parent)
    except DataError as problem:
        assert str(path) in str(problem) and "line " in str(problem)
        return None


ODD = {
    b"5": "valid dictionary",
    b"[]": "valid dictionary",
    b'{"a": 1}': "event: field required",
    b'{"event": 3}': "event: ",
    b"\xff": "byte 0xff",
    b"{" * 100_000: "line 1 column 2",
    b'{"event": ' + b"[" * 100_000: "32 deep",
    b'{"event": "warning"}': "kind: field required",
    b'{"event": "note", "text": "a", "text": "b"}': "the key text twice",
    b'{"event": "epoch", "stage": "fit", "epoch": 0, "seconds": 1, "loss": 1}': "epoch: ",
    b'{"event": "epoch", "stage": "fit", "epoch": 1, "seconds": NaN, "loss": 1}': "NaN",
    b'{"event": "epoch", "stage": "other", "epoch": 1, "seconds": 1, "loss": 1}': "stage: ",
    b'{"event": "epoch", "stage": "fit", "epoch": 1, "seconds": 1, "loss": 1, "exports": {"a": {}}}': r"exports\.a\.gain: ",
    b'{"event": "explore", "pruned": 1}': "grown: ",
    b'{"event": "note", "text": "' + b"x" * (1 << 20) + b'"}': "too long",
    b'{"event": "note", "text": "a", "crc32": 7}': "not what was written",
}


@pytest.mark.parametrize("line", ODD, ids=range(len(ODD)))
def test_an_odd_line_is_named(events, line):
    events.write_bytes(events.read_bytes() + line + b"\n")
    with pytest.raises(DataError, match=rf"^line 3 of .*metrics\.jsonl.*{ODD[line]}.*remove that line") as caught:
        read_events(events.parent)
    assert "\n" not in str(caught.value)
    events.write_bytes(b"".join(events.read_bytes().splitlines(keepends=True)[:2]))  # as the sentence says
    assert len(read_events(events.parent)) == 2


@pytest.mark.parametrize("tail", [b'{"event": "no', b"\xff\x00", b"", b"\0" * 300])
def test_a_last_line_that_a_crash_cut_short_is_replaced(events, tail):
    events.write_bytes(events.read_bytes() + tail)
    assert read_lines(events.parent) == [EPOCH, NOTE]
    append_event(events.parent, NOTE)
    assert read_lines(events.parent) == [EPOCH, NOTE, NOTE] and events.read_bytes().count(b"\n") == 3


def test_a_last_line_that_lacks_only_its_end_stays(events):
    events.write_bytes(events.read_bytes()[:-1])
    append_event(events.parent, NOTE)
    assert read_lines(events.parent) == [EPOCH, NOTE, NOTE]


def test_a_resumed_run_keeps_lines_as_they_are(events):
    append_event(events.parent, {**EPOCH, "epoch": 2, "step": 8})
    before = events.read_bytes().splitlines()
    keep_events(events.parent, "fit", 1, 4)
    assert events.read_bytes().splitlines() == before[:2]


@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics.json", "memory.json", "lineage.json"])
@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_one_sentence(tmp_path, name, kind):
    (tmp_path / name).mkdir() if kind == "folder" else os.mkfifo(tmp_path / name)
    contents = RunContents(tmp_path)
    reads = {
        "metrics.jsonl": lambda: contents.events,
        "metrics.json": lambda: contents.metrics_of("test"),
        "memory.json": lambda: contents.memory,
        "lineage.json": lambda: contents.lineage,
    }
    with pytest.raises(DataError, match=rf"{name} cannot be read.*it is a {kind}"):
        reads[name]()


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        ("memory.json", {"values": "many"}, "'values'"),
        ("memory.json", {"values": -1}, "'values'"),
        ("lineage.json", {"format": 1}, "data: "),
        ("lineage.json", {"data": {"folder": 3, "digest": ""}}, r"data\.folder: "),
        ("lineage.json", {"data": {"folder": "", "digest": "", "leakage_x": "all"}}, "leakage_x"),
        ("lineage.json", {"data": {"folder": "", "digest": ""}, "machine": []}, "machine: "),
        ("lineage.json", {"data": []}, "data: "),
        ("metrics.json", {"intervals": {"recall@5": [1.0]}}, "intervals"),
        ("metrics.json", {"deciles": [{"decile": 1}, {}]}, "deciles: "),
        ("metrics.json", {"cold_start": {"warm": {"recall@5": 1.0}}}, "cold_start: "),
    ],
)
def test_a_document_of_another_shape_is_named_by_its_key(tmp_path, name, content, key):
    (tmp_path / name).write_text(json.dumps(content))
    contents = RunContents(tmp_path)
    with pytest.raises(DataError, match=rf"{name} is damaged \(.*{key}"):
        {"memory.json": lambda: contents.memory, "lineage.json": lambda: contents.lineage}.get(
            name, lambda: contents.metrics_of("test")
        )()


def test_epochs_without_a_line_are_counted(tmp_path):
    for epoch in (1, 3, 3):
        append_event(tmp_path, {"event": "epoch", "stage": "fit", "epoch": epoch, "step": 4 * epoch, "seconds": 1.0, "loss": 0.5})
    assert [lost_epochs(tmp_path, "fit", epochs) for epochs in (1, 3, 5)] == [0, 1, 3]
    assert lost_epochs(tmp_path, "refit", 2) == 2
