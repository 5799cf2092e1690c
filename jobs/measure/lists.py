"""Similar items and ranks of given pairs on a finished run: seconds, memory, and equality with NumPy.

    python -m jobs.measure.lists RUN --out RECORD.json [--k 20] [--pairs 100000] [--memory-limit 300MB]

`similar` lists the `k` items most like each item, `score` gives the rank of random pairs among all items; each in a process of
its own, with a memory limit. Memory is private (RssAnon), what the command takes beyond the imports. NumPy computes 500 lists,
and the ranks of 200 users, in float64. A list is equal where its scores are the best ones up to rounding; a rank, where no score
that differs by more than rounding is on the wrong side.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gcnrec.bench.memory import Sampler, counters

SAMPLE, USERS, ROUNDING = 500, 200, 2e-6


def main() -> int:
    from gcnrec.bench.harness import write_record  # not at the top: a measured command has no use for it

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True, metavar="RECORD.json")
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--memory-limit", default="300MB", metavar="SIZE")
    parser.add_argument("--step", metavar="NAME", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        print(json.dumps(step(given, given.step)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [_apart(given, "similar", folder) | likeness(given.run, folder, given.k)]
        _draw_pairs(given.run, folder, given.pairs)
        rows.append(_apart(given, "score", folder) | ranks(given.run, folder))
    command = f"python -m jobs.measure.lists RUN --out {given.out.name} --k {given.k} --pairs {given.pairs} --memory-limit "
    write_record(given.out, command + given.memory_limit, rows)
    for row in rows:
        print(json.dumps(row))
    return int(any(row["wrong"] for row in rows))


def _apart(given: argparse.Namespace, what: str, folder: Path) -> dict[str, Any]:
    options = ["--k", str(given.k), "--memory-limit", given.memory_limit, "--step", what]
    command = [sys.executable, "-m", "jobs.measure.lists", str(given.run), "--out", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def step(given: argparse.Namespace, what: str) -> dict[str, Any]:
    """One command in this process; `given.out` is the folder of its files."""
    from gcnrec.api.lists import score, similar
    from gcnrec.runs.folder import open_run

    run, before = open_run(given.run), counters()["RssAnon"]
    sampler, begun = Sampler(counters), time.perf_counter()
    if what == "similar":
        lists = similar(run, "item", given.k, given.out / "similar.parquet", memory_limit=given.memory_limit)
        made = {"lists": lists.nodes, "rows": lists.rows}
    else:
        scored = score(run, given.out / "pairs.parquet", given.out / "scores.parquet", memory_limit=given.memory_limit)
        made = {"users": scored.users, "rows": scored.rows}
    seconds = time.perf_counter() - begun
    return {"command": what, **made, "k": given.k, "seconds": seconds, "private_bytes": sampler()["RssAnon"] - before}


def likeness(folder: Path, made: Path, k: int) -> dict[str, int]:
    """Lists of `SAMPLE` items against cosines in float64: how many were compared, and how many are wrong."""
    ids, rows_IF = _embeddings(folder, "items")
    unit_IF = rows_IF / np.maximum(np.linalg.norm(rows_IF, axis=1, keepdims=True), 1e-12)
    table, number = pq.read_table(made / "similar.parquet"), {one: at for at, one in enumerate(ids)}
    items, others = (np.array([number[one] for one in table[name].to_pylist()]) for name in ("item", "similar"))
    first, wrong = np.flatnonzero(np.diff(items, prepend=-1)), 0
    for at in np.random.default_rng(0).choice(len(first), min(SAMPLE, len(first)), replace=False).tolist():
        item, listed = items[first[at]], others[first[at] : first[at] + k]
        cosines = unit_IF @ unit_IF[item]
        cosines[item] = -np.inf
        best = np.sort(cosines)[::-1][: len(listed)]
        fair = np.abs(cosines[listed] - best).max() <= ROUNDING and len(set(listed.tolist())) == len(listed)
        wrong += not (fair and item not in listed)
    return {"compared": min(SAMPLE, len(first)), "wrong": wrong}


def ranks(folder: Path, made: Path) -> dict[str, int]:
    """Ranks of `USERS` users' pairs against all their scores in float64."""
    from gcnrec.runs.folder import open_run

    (user_ids, users_UF), (item_ids, items_IF) = _embeddings(folder, "users"), _embeddings(folder, "items")
    with tempfile.TemporaryDirectory() as scratch:
        column_I = open_run(folder).embeddings(Path(scratch)).scorer.column_I
    added_I = 0.0 if column_I is None else column_I.numpy().astype(np.float64)
    table = pq.read_table(made / "scores.parquet")
    user_of, item_of = ({one: at for at, one in enumerate(ids)} for ids in (user_ids, item_ids))
    users = np.array([user_of[one] for one in table["user"].to_pylist()])
    items = np.array([item_of[one] for one in table["item"].to_pylist()])
    found, compared, wrong = table["rank"].to_numpy(), 0, 0
    for user in np.unique(users)[:USERS].tolist():
        scores_I = items_IF @ users_UF[user] + added_I
        error = ROUNDING * max(1.0, float(np.abs(scores_I).max()))
        for at in np.flatnonzero(users == user).tolist():
            own = scores_I[items[at]]
            least, most = 1 + (scores_I > own + error).sum(), (scores_I >= own - error).sum()
            compared, wrong = compared + 1, wrong + (not least <= found[at] <= most)
    return {"compared": compared, "wrong": int(wrong)}


def _embeddings(folder: Path, side: str) -> tuple[list[Any], np.ndarray[Any, np.dtype[np.float64]]]:
    table = pq.read_table(folder / "embeddings" / f"{side}.parquet", columns=["id", "embedding"])
    flat = table["embedding"].combine_chunks().flatten().to_numpy()
    return table["id"].to_pylist(), flat.reshape(len(table), -1).astype(np.float64)


def _draw_pairs(folder: Path, made: Path, count: int) -> None:
    draw = np.random.default_rng(1)
    ids = [pq.read_table(folder / "embeddings" / f"{side}.parquet", columns=["id"])["id"] for side in ("users", "items")]
    users, items = (each.take(pa.array(draw.integers(0, len(each), count))) for each in ids)
    pq.write_table(pa.table({"user": users, "item": items}), made / "pairs.parquet")


if __name__ == "__main__":
    sys.exit(main())
