"""Checkpoints are whole or absent, tell damage, and go back to the newest whole one."""

from __future__ import annotations

import importlib
import json
import os

import pytest
import torch
from safetensors import safe_open

from gcnrec.errors import DataError
from gcnrec.runs.checkpoints import Checkpoints, load_checkpoint, save_checkpoint
from gcnrec.tables.dense import DenseTable

module = importlib.import_module("gcnrec.runs.checkpoints")


def moment(epoch, step=0, stage="fit"):
    return {"stage": stage, "epoch": epoch, "step": step, "best_value": 0.1 + 0.2}


def value(tensors):
    return tensors["a"][0].item()


def save(store, epoch, step=0, stage="fit"):
    store.save({"a": torch.full((300,), 100.0 * epoch + step)}, moment(epoch, step, stage))


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def never(text):
    raise AssertionError(text)


def test_round_trip_of_padded_planes_and_every_kind(tmp_path):
    weights = torch.randn(5, 33, generator=torch.Generator().manual_seed(0))
    tensors = DenseTable(weights, 34).tensors()
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int16, torch.int8, torch.uint8, torch.bool)
    tensors |= {str(kind): torch.arange(3).to(kind) for kind in kinds} | {"number": torch.tensor(7.0), "none": torch.empty(0, 4)}
    save_checkpoint(tmp_path / "c" / "last.safetensors", tensors, moment(3))
    loaded, progress = load_checkpoint(tmp_path / "c" / "last.safetensors")
    assert progress == moment(3) and loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) and loaded[name].dtype == tensors[name].dtype for name in tensors)


def test_a_failed_checkpoint_leaves_the_old_one_whole(tmp_path, monkeypatch):
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, {"a": torch.ones(3)}, moment(1))
    before = path.read_bytes()

    def half_written(tensors, work, metadata):
        work.write_bytes(before[: len(before) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_tensors", half_written)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {"a": torch.zeros(3)}, moment(2))
    assert path.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == [path.name]


def test_what_is_written_otherwise_than_it_was_is_noticed_before_it_counts(tmp_path, monkeypatch):
    """A disk or a memory that turns a bit on the way."""
    plain, path = module.save_tensors, tmp_path / "last.safetensors"
    save_checkpoint(path, {"a": torch.ones(3)}, moment(1))
    before = path.read_bytes()

    def turned(tensors, work, metadata):
        plain({name: tensor + 1 for name, tensor in tensors.items()}, work, metadata=metadata)

    monkeypatch.setattr(module, "save_tensors", turned)
    with pytest.raises(DataError, match=r"last\.safetensors"):
        save_checkpoint(path, {"a": torch.ones(3)}, moment(2))
    assert path.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == [path.name]


def test_every_bit_counts(tmp_path):
    """Whatever bit is flipped, in header, progress or tensors: damaged, or read as it was (a blank of the header's end)."""
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, {"a": torch.ones(5), "b": torch.arange(3)}, moment(1))
    content, (tensors, progress) = path.read_bytes(), load_checkpoint(path)
    silent = 0
    for place in range(len(content)):
        for bit in (0, 5):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            try:
                loaded, found = load_checkpoint(path)
            except DataError as problem:
                assert "damaged" in str(problem) and str(path) in str(problem)
                continue
            silent += 1
            assert found == progress and all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert silent < 40
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match="damaged"):
            load_checkpoint(path)


def test_missing_ones_and_those_of_another_version_are_named(tmp_path):
    path = tmp_path / "last.safetensors"
    with pytest.raises(DataError, match=r"last\.safetensors is missing; train again"):
        load_checkpoint(path, "train again")
    module.save_tensors({"a": torch.ones(3)}, path, metadata={"format": "1", "progress": json.dumps({"epoch": 1})})
    with pytest.raises(DataError, match="damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(tmp_path, keep):
    store = Checkpoints(tmp_path, keep)
    assert store.newest(never) is None
    moments = [(0, 4), (0, 8), (1, 0), (1, 4)]
    for count, (epoch, step) in enumerate(moments, 1):
        save(store, epoch, step)
        earlier = [f"earlier-fit-{e:06d}-{s:09d}.safetensors" for e, s in moments[max(0, count - keep) : count - 1]]
        assert names(tmp_path) == [*earlier, "last.safetensors"]
        assert store.has(moment(epoch, step)) and not store.has(moment(epoch, step + 1))
        tensors, progress = Checkpoints(tmp_path, keep).newest(never)
        assert (value(tensors), progress) == (100.0 * epoch + step, moment(epoch, step))


def test_the_last_one_is_another_name_of_the_best_one_of_the_same_steps(tmp_path):
    store, folder = Checkpoints(tmp_path, 2), tmp_path / "checkpoints"
    for epoch, best in ((1, True), (2, False), (3, True), (4, True)):
        if best:
            store.save_best({"a": torch.full((300,), 100.0 * epoch)}, moment(epoch))
        save(store, epoch)
        assert (folder / "best.safetensors").samefile(folder / "last.safetensors") == best
        assert value(load_checkpoint(folder / "best.safetensors")[0]) == (100.0 if epoch == 2 else 100.0 * epoch)
        tensors, progress = Checkpoints(tmp_path, 2).newest(never)
        assert (value(tensors), progress) == (100.0 * epoch, moment(epoch))
    assert names(tmp_path) == ["best.safetensors", "earlier-fit-000003-000000000.safetensors", "last.safetensors"]


def test_without_second_names_the_last_one_is_written_again(tmp_path, monkeypatch):
    def refused(*names, **options):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(module.os, "link", refused)
    store, folder = Checkpoints(tmp_path, 2), tmp_path / "checkpoints"
    for epoch in (1, 2):
        store.save_best({"a": torch.full((300,), 100.0 * epoch)}, moment(epoch))
        save(store, epoch)
    assert not (folder / "best.safetensors").samefile(folder / "last.safetensors")
    assert (folder / "best.safetensors").read_bytes() == (folder / "last.safetensors").read_bytes()
    assert names(tmp_path) == ["best.safetensors", "earlier-fit-000001-000000000.safetensors", "last.safetensors"]


def test_while_one_of_one_is_written_only_its_predecessor_is_there(tmp_path, monkeypatch):
    store, plain, found = Checkpoints(tmp_path, 1), module.save_tensors, []
    save(store, 0, 4)

    def watched(tensors, work, metadata):
        plain(tensors, work, metadata)
        found.append({each.name for each in work.parent.iterdir()} - {work.name})

    monkeypatch.setattr(module, "save_tensors", watched)
    save(store, 0, 8)
    assert found == [{"last.safetensors"}] and names(tmp_path) == ["last.safetensors"]


def test_refits_come_after_fits(tmp_path):
    store = Checkpoints(tmp_path, 2)
    for epoch, stage in ((7, "fit"), (0, "refit"), (1, "refit")):
        save(store, epoch, 3, stage)
    assert names(tmp_path) == ["earlier-refit-000000-000000003.safetensors", "last.safetensors"]


def flip(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 4
    path.write_bytes(content)


def test_a_damaged_one_is_named_passed_over_and_replaced(tmp_path):
    store, told = Checkpoints(tmp_path, 3), []
    for step in (4, 8, 12):
        save(store, 0, step)
    first, second = store._earlier()
    flip(store.last)
    flip(second)
    resumed = Checkpoints(tmp_path, 3)
    tensors, progress = resumed.newest(told.append)
    assert (value(tensors), progress["step"]) == (4.0, 4)
    assert [second.name in told[0] and "last.safetensors is damaged" in told[0], first.name in told[1]] == [True, True]
    save(resumed, 0, 8)
    assert names(tmp_path) == [first.name, "last.safetensors"]
    save(resumed, 0, 12)
    assert names(tmp_path) == [first.name, second.name, "last.safetensors"]
    assert load_checkpoint(second)[1]["step"] == 8


def test_when_all_are_damaged_nothing_is_used_or_removed(tmp_path):
    store, told = Checkpoints(tmp_path, 2), []
    for step in (4, 8):
        save(store, 0, step)
    before = names(tmp_path)
    for path in (tmp_path / "checkpoints").iterdir():
        flip(path)
    with pytest.raises(DataError, match=r"earlier-.* is damaged .*remove the folder .*checkpoints and resume"):
        Checkpoints(tmp_path, 2).newest(told.append)
    assert len(told) == 1 and names(tmp_path) == before


def rewritten(content, header):
    """A checkpoint's bytes with another header, whose digest nobody has made anew."""
    length = int.from_bytes(content[:8], "little")
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def header_of(content):
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def with_tensor(content, **changed):
    header = header_of(content)
    return rewritten(content, json.dumps({**header, "a": {**header["a"], **changed}}).encode())


ODD = {
    "a byte follows": lambda whole: whole + b"\0",
    "a number": lambda whole: rewritten(whole, b"1"),
    "a list": lambda whole: rewritten(whole, b"[]"),
    "null": lambda whole: rewritten(whole, b"null"),
    "no metadata": lambda whole: rewritten(whole, b"{}"),
    "metadata is a list": lambda whole: rewritten(whole, b'{"__metadata__": []}'),
    "no progress": lambda whole: rewritten(whole, b'{"__metadata__": {"format": "2", "sha256": ""}}'),
    "a tensor is a number": lambda whole: rewritten(whole, json.dumps({**header_of(whole), "a": 1}).encode()),
    "deep": lambda whole: rewritten(whole, b"[" * 100_000),
    "not UTF-8": lambda whole: rewritten(whole, b'{"\xff": 1}'),
    "a key twice": lambda whole: rewritten(whole, b'{"__metadata__": {}, "__metadata__": {}}'),
    "length beyond the file": lambda whole: b"\xff" * 8 + whole[8:],
    "length beyond any header": lambda whole: (1 << 21).to_bytes(8, "little") + b" " * (1 << 22),
    "empty": lambda whole: b"",
    "negative offsets": lambda whole: with_tensor(whole, data_offsets=[-1200, 0]),
    "overlapping": lambda whole: rewritten(whole, json.dumps({**header_of(whole), "b": header_of(whole)["a"]}).encode()),
    "offsets are no integers": lambda whole: with_tensor(whole, data_offsets=["0", 1200.5]),
    "three offsets": lambda whole: with_tensor(whole, data_offsets=[0, 600, 1200]),
    "another shape": lambda whole: with_tensor(whole, shape=[299]),
    "a negative shape": lambda whole: with_tensor(whole, shape=[-300]),
    "a huge shape": lambda whole: with_tensor(whole, shape=[2**62, 2**62]),
    "unknown dtype": lambda whole: with_tensor(whole, dtype="F31"),
}


@pytest.mark.parametrize("damage", ODD)
def test_any_odd_file_falls_back_to_the_previous_checkpoint(tmp_path, damage):
    store, told = Checkpoints(tmp_path, 2), []
    for step in (4, 8):
        save(store, 0, step)
    store.last.write_bytes(ODD[damage](store.last.read_bytes()))
    tensors, progress = Checkpoints(tmp_path, 2).newest(told.append)
    assert (value(tensors), progress["step"]) == (4.0, 4)
    assert len(told) == 1 and "last.safetensors is damaged" in told[0] and "\n" not in told[0]


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_what_is_no_file_falls_back_too_and_is_replaced(tmp_path, kind):
    store, told = Checkpoints(tmp_path, 2), []
    for step in (4, 8):
        save(store, 0, step)
    store.last.unlink()
    if kind == "folder":
        (store.last / "inside").mkdir(parents=True)
    elif kind == "pipe":
        os.mkfifo(store.last)
    else:
        store.last.symlink_to("/dev/zero")
    resumed = Checkpoints(tmp_path, 2)
    assert resumed.newest(told.append)[1]["step"] == 4 and len(told) == 1
    save(resumed, 0, 8)
    assert load_checkpoint(store.last)[1]["step"] == 8 and store.last.is_file() and not store.last.is_symlink()


class Killed(BaseException):
    """Nothing cleans up after it: what follows in the same process is a stand-in for the next one."""


@pytest.mark.parametrize("at", range(1, 6))
def test_killed_between_any_two_changes_of_names(tmp_path, monkeypatch, at):
    """The state of the newest whole checkpoint, or of the new one; and the next one is written as ever."""
    store = Checkpoints(tmp_path, 2)
    for step in (4, 8):
        save(store, 0, step)
    left = at

    def dying(name):
        plain = getattr(module.Path, name)

        def call(self, *arguments, **options):
            nonlocal left
            left -= 1
            if left <= 0:
                raise Killed
            return plain(self, *arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("rename", "replace", "unlink"):
            patch.setattr(module.Path, name, dying(name))
        if at < 5:
            with pytest.raises(Killed):
                save(store, 0, 12)
        else:
            save(store, 0, 12)
    resumed = Checkpoints(tmp_path, 2)
    tensors, progress = resumed.newest(never)
    assert value(tensors) == progress["step"] == (8 if at < 3 else 12)
    for step in range(progress["step"] + 4, 20, 4):
        save(resumed, 0, step)
    kept = [name for name in names(tmp_path) if not name.endswith((".part", ".dir"))]
    assert kept == ["earlier-fit-000000-000000012.safetensors", "last.safetensors"]
    with safe_open(tmp_path / "checkpoints" / "last.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["progress"])["step"] == 16
