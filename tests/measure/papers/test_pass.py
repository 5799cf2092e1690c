"""The measuring program of the largest graph: what a sampler counts, stages that are ended, and lists of who knows the blocks."""

from __future__ import annotations

import json
import mmap
import os
import random

import numpy as np
import psutil
import pytest
from safetensors.numpy import save_file

from gcnrec.loaders.synthetic import World, draw_edges, draw_ranks, ranks_of
from jobs.measure.papers.__main__ import steps_of, tensors_digest
from jobs.measure.papers.sampler import disk, memory, processes
from jobs.measure.papers.stages import Kills, Stage, carried_out
from jobs.measure.papers.world import best_items, scaled

WORLD = World(users=60, items=40, edges=400_000, blocks=4, user_exponent=0.5, item_exponent=0.5, inside=0.7, seed=3, ids="int32")
GROWS = "import os, sys, time; open('began', 'a').write('x'); time.sleep(0.2 if os.stat('began').st_size > 1 else 60)"


def test_blocks_that_are_allocated_count_once_with_nameless_files(tmp_path):
    (tmp_path / "inside").mkdir()
    before = disk(tmp_path, [os.getpid()])
    (tmp_path / "inside" / "whole").write_bytes(os.urandom(1 << 20))
    (tmp_path / "again").hardlink_to(tmp_path / "inside" / "whole")
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(1 << 30)
    with (tmp_path / "gone").open("w+b") as file:
        file.write(os.urandom(1 << 19))
        file.flush()
        (tmp_path / "gone").unlink()
        assert disk(tmp_path, [os.getpid()]) - before == (1 << 20) + (1 << 19)
    assert disk(tmp_path, [os.getpid()]) - before == 1 << 20


def test_private_memory_is_that_of_the_process():
    own = os.getpid()
    before = memory([own])
    with mmap.mmap(-1, 1 << 26, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:  # not of what the allocator has kept
        held[:: mmap.PAGESIZE] = b"x" * (len(held) // mmap.PAGESIZE)
        after, resident = memory([own]), psutil.Process().memory_info().rss
    assert abs(after["private_bytes"] - before["private_bytes"] - (1 << 26)) < 8 << 20
    assert after["rss_bytes"] == pytest.approx(resident, rel=0.1)
    assert own in processes(own) and memory([]) == {"rss_bytes": 0, "private_bytes": 0}


def test_a_stage_is_ended_once_and_begun_again(tmp_path):
    ended = carried_out(Stage("wait", ["-c", GROWS]), tmp_path, Kills({"wait": 1.0}, random.Random(0)))
    first, again = ended.row["attempts"]
    assert ended.ok and (tmp_path / "began").read_text() == "xx"
    assert first["killed_after"] >= 0.05 and again["killed_after"] is None and "code" not in again
    assert str(tmp_path) not in str(ended.row)
    whole = carried_out(Stage("fail", ["-c", "raise SystemExit('a reason')"]), tmp_path, Kills())
    assert not whole.ok and "a reason" in whole.said and len(whole.row["attempts"]) == 1


def test_the_likeliest_items_of_a_block_are_these_that_it_draws_most():
    users, items = draw_ranks(WORLD, 0, WORLD.edges)
    counts = np.bincount(items[users % WORLD.blocks == 2], minlength=WORLD.items)
    best = best_items(WORLD, 2, WORLD.items)
    assert sorted(best.tolist()) == list(range(WORLD.items))
    # A count differs from its mean by less than five standard deviations, so that counts in this order fall but for that.
    fall = counts[best[1:]] - counts[best[:-1]].astype(float)
    assert (fall < 5 * np.sqrt(counts[best[1:]] + counts[best[:-1]])).all() and counts[best[0]] == counts.max()
    assert best_items(WORLD, 2, 5).tolist() == best[:5].tolist()


def test_a_digest_is_of_tensors_and_not_of_seconds(tmp_path):
    found = []
    for number, (values, seconds) in enumerate([([1.0, 2.0], "3"), ([1.0, 2.0], "45"), ([1.0, 2.5], "3")]):
        save_file({"a": np.array(values), "b": np.arange(number // 2, 3)}, tmp_path / "t", {"seconds": seconds})
        found.append(tensors_digest(tmp_path / "t"))
    assert found[0] == found[1] != found[2]


def test_the_time_of_a_row_is_that_of_an_epoch_over_the_rows_that_it_read(tmp_path):
    epochs = [(2.5e6, 3.25, 90.0, 4.34382), (2.0e6, 0.0, 200.5, 3.94074)]
    lines = [{"event": "fit", "seconds": 1}] + [
        {"event": "epoch", "rows_per_second": rows, "major_faults": faults, "seconds": at, "loss": loss}
        for rows, faults, at, loss in epochs
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    expected = {
        "microseconds_a_row": [0.4, 0.5],
        "major_faults_a_step": [3.25, 0.0],
        "steps_seconds": 200.5,
        "losses": [4.3438, 3.9407],
    }
    assert steps_of(tmp_path) == expected


def test_ids_of_32_bits_are_a_permutation():
    users, items = draw_ranks(WORLD, 0, 5000)
    user_ids, item_ids = draw_edges(WORLD, 0, 5000)
    assert user_ids.dtype == item_ids.dtype == np.int32
    assert sorted(set(item_ids.tolist())) == list(range(WORLD.items)) and user_ids.max() < WORLD.users
    assert (ranks_of(user_ids, WORLD.users) == users).all() and (ranks_of(item_ids, WORLD.items) == items).all()


def test_a_smaller_world_has_the_same_shape():
    world, whole = scaled(20_000_000, 5), scaled(1_650_000_000, 0)
    assert (world.seed, whole.users, whole.items, whole.blocks) == (5, 80_050_000, 31_010_000, 10_000)
    for name in ("users", "items", "blocks"):
        assert getattr(world, name) / world.edges == pytest.approx(getattr(whole, name) / whole.edges, rel=0.01)
