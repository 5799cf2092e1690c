"""A graph of the size of datasets/papers-size.toml from its drawing to its lists: seconds, memory and disk of each stage.

    python -m jobs.measure.papers --out RECORD.json --work FOLDER [--edges 1650000000] [--seed 0] [--steps 2000]
        [--job jobs/papers-size.toml] [--set KEY=VALUE]... [--lists 1000,5000] [--untrained] [--kill RECORD] [--threads 2]

Stages: draw, ingest, train (its phases: train and export), evaluate, recommend (once for each number of users); with --untrained
also the export of the table before it has learned, ranked for the same users, once the trained one is removed. Each is a process
below FOLDER, sampled once a second: RSS, private memory (anonymous and shared), major faults, allocated bytes of FOLDER with
nameless files. The record is written after each stage. --edges scales users, items and blocks too; the drawn files are removed
once the dataset is ingested.

--kill takes the record of an unbroken pass: each stage is ended by SIGKILL at a random moment of the time that it took there, and
begun again; the program ends with 1 where a digest differs from that record's. Another model of CPU rounds floats differently:
then the digest of the dataset is equal, and losses and recall are compared by eye.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gcnrec.config import Job
from gcnrec.integrity.digests import sha256_of
from gcnrec.loaders.schema import open_dataset
from gcnrec.runs.paths import embeddings_paths
from gcnrec.storage.files import atomic_file
from jobs.measure.papers.stages import ROOT, Kills, Stage, carried_out
from jobs.measure.papers.world import oracle_recall, popularity_expected, scaled

K = 20
EPOCHS = 2
"""Of the steps of training."""
ORACLE_USERS = 2000


def main() -> int:
    given = _arguments()
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    before = json.loads(given.kill.read_text(encoding="utf-8")) if given.kill else {}
    kills = Kills({row["stage"]: row["seconds"] for row in before.get("rows", [])}, random.Random(given.seed))
    rows: list[dict[str, Any]] = []
    facts: dict[str, Any] = {"edges_drawn": given.edges, "seed": given.seed, "steps": given.steps, "threads": given.threads}
    for stage in _stages(given, work):
        print(f"{stage.name}: {' '.join(stage.command)}", file=sys.stderr, flush=True)
        ended = carried_out(stage, work, kills)
        rows.append(ended.row)
        if ended.ok:
            ended.row.update(_found(stage.name, given, work))
        _record(given, rows, facts)
        if not ended.ok:
            print(f"{stage.name} failed: {ended.said}", file=sys.stderr)
            return 1
        print(json.dumps(ended.row), flush=True)
        if stage.name == "ingest":
            shutil.rmtree(work / "world")
    differing = _differing(rows, before.get("rows", []))
    print(f"stages that differ from {given.kill}: {differing or 'none'}" if given.kill else "done")
    return int(bool(differing))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="RECORD.json")
    parser.add_argument("--work", type=Path, required=True, metavar="FOLDER", help="where all files go; empty at first")
    parser.add_argument("--edges", type=int, default=1_650_000_000, metavar="N", help="rows that are drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2000, metavar="N", help="of training, in two epochs")
    parser.add_argument("--job", type=Path, default=ROOT / "jobs" / "papers-size.toml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the job")
    parser.add_argument("--lists", default="1000,5000", metavar="N,...", help="users who get lists, in a stage each")
    parser.add_argument("--untrained", action="store_true", help="also export the table as it starts")
    parser.add_argument("--kill", type=Path, metavar="RECORD.json", help="of an unbroken pass")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def _stages(given: argparse.Namespace, work: Path) -> Iterator[Stage]:
    """The stages in their order; what a later one needs is read from what the earlier ones made."""
    gcnrec = ["-m", "gcnrec"]
    yield Stage("draw", ["-m", "jobs.measure.papers.world", str(given.edges), str(given.seed), str(work / "world")])
    files = ["--train", str(work / "world" / "train"), "--test", str(work / "world" / "test.parquet"), "--valid-size", "0"]
    yield Stage("ingest", [*gcnrec, "ingest", *files, "--user", "user", "--item", "item", "--out", str(work / "data")])
    edges = open_dataset(work / "data").graph.num_edges
    job = Job.load(given.job, given.set)
    yield _training("train", given, work, (job.train.batch_size, edges))
    yield Stage("evaluate", [*gcnrec, "evaluate", str(work / "train")])
    for count in map(int, given.lists.split(",")):
        _write_users(work, count)
        lists = ["--users", str(work / f"users-{count}.parquet"), "--k", str(K), "--out", str(work / f"lists-{count}.parquet")]
        yield Stage(f"recommend {count}", [*gcnrec, "recommend", str(work / "train"), *lists, "--force"])
    if given.untrained:
        shutil.rmtree(work / "train")  # the disk may not have room for both
        yield _training("untrained", given, work, (job.train.batch_size, edges))
        yield Stage("evaluate untrained", [*gcnrec, "evaluate", str(work / "untrained")])


def _training(name: str, given: argparse.Namespace, work: Path, sizes: tuple[int, int]) -> Stage:
    """The training of a run `name`; `sizes`: of a batch, and all edges. "untrained" takes a step that changes nothing."""
    steps, rate = (given.steps, []) if name == "train" else (1, ["optimizer.learning_rate=1e-12"])
    epochs = min(EPOCHS, steps)
    share = min(1.0, steps // epochs * sizes[0] / sizes[1] * (1.0 - 1e-9))
    sets = [f"sampler.fraction={share}", f"train.epochs={epochs}", f"train.threads={given.threads}", *given.set, *rate]
    command = ["-m", "gcnrec", "train", str(given.job), "--data", str(work / "data"), "--out", str(work / name)]
    command += [part for each in sets for part in ("--set", each)]
    return Stage(name, command, [*command, "--resume"], _Phase(work / name / "metrics.jsonl", epochs, name))


class _Phase:
    """What a training is at: "export" once all epochs are recorded."""

    def __init__(self, events: Path, epochs: int, name: str) -> None:
        self._events, self._epochs, self._name = events, epochs, name

    def __call__(self) -> str:
        done = self._events.read_text(encoding="utf-8").count('"event": "epoch"') if self._events.is_file() else 0
        return "export" if done >= self._epochs else self._name


def _write_users(work: Path, count: int) -> None:
    """A file of `count` users, spread over the numbers, so over the degrees."""
    ids = open_dataset(work / "data").user_ids
    numbers = np.unique(np.linspace(0, len(ids) - 1, min(count, len(ids))).astype(np.int64))
    pq.write_table(pa.table({"user": ids.picked(numbers)}), work / f"users-{count}.parquet")


def _found(name: str, given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """What a stage made: sizes, digests, figures."""
    match name.split():
        case ["draw"]:
            files = sorted((work / "world").rglob("*.parquet"))
            return {"bytes": sum(path.stat().st_size for path in files)}
        case ["ingest"]:
            dataset = open_dataset(work / "data")
            sizes = {"users": dataset.graph.num_users, "items": dataset.graph.num_items}
            sizes |= {"train_edges": dataset.graph.num_edges, "test_pairs": len(dataset.test)}
            tested = np.unique(dataset.test.users_E)[:: max(1, len(dataset.test) // ORACLE_USERS)]
            oracle = oracle_recall(scaled(given.edges, given.seed), dataset, tested, K)
            known = {"popularity_expected": popularity_expected(dataset, K), "oracle_recall": oracle, "oracle_users": len(tested)}
            return {**sizes, **known, "digest": dataset.digest}
        case ["train" | "untrained" as folder]:
            digest = tensors_digest(work / folder / "checkpoints" / "last.safetensors")
            export = [sha256_of(path) for path in embeddings_paths(work / folder)]
            return {"digest": digest, "export": export, **steps_of(work / folder)}
        case ["evaluate", *untrained]:
            metrics = json.loads((work / ("untrained" if untrained else "train") / "metrics.json").read_text(encoding="utf-8"))
            return {key: metrics.get(key) for key in ("users", "sampled_from", f"recall@{K}", f"ndcg@{K}", f"coverage@{K}")} | {
                "interval": metrics["intervals"].get(f"recall@{K}")
            }
        case _:
            return {"digest": sha256_of(work / f"lists-{name.split()[1]}.parquet")}


def steps_of(run: Path) -> dict[str, Any]:
    """Of each epoch: microseconds of a step for each distinct row that it reads, major faults, the loss; seconds of all steps."""
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    epochs = [event for event in events if event["event"] == "epoch"]
    return {
        "microseconds_a_row": [round(1e6 / epoch["rows_per_second"], 3) for epoch in epochs],
        "major_faults_a_step": [epoch["major_faults"] for epoch in epochs],
        "steps_seconds": epochs[-1]["seconds"],
        "losses": [round(epoch["loss"], 4) for epoch in epochs],
    }


def tensors_digest(path: Path) -> str:
    """The sha256 of a safetensors file without its metadata, which has seconds: names, shapes and types, then all bytes."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        header.pop("__metadata__", None)
        return hashlib.file_digest(file, lambda: hashlib.sha256(json.dumps(header, sort_keys=True).encode())).hexdigest()


def _record(given: argparse.Namespace, rows: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    """Write the record of what is done so far, whole or not at all."""
    from gcnrec.bench.harness import write_record  # it imports torch: not before the first stage runs

    command = f"python -m jobs.measure.papers --edges {given.edges} --seed {given.seed} --steps {given.steps}"
    command += "".join(f" --set {each}" for each in given.set) + (" --untrained" if given.untrained else "")
    command += f" --lists {given.lists}" + (f" --kill {given.kill.name}" if given.kill else "")
    with atomic_file(given.out) as path:
        write_record(path, command, rows, **facts, cores=os.cpu_count())


def _differing(rows: list[dict[str, Any]], before: list[dict[str, Any]]) -> list[str]:
    """The stages whose digests are not these of the record `before`."""
    expected = {row["stage"]: (row.get("digest"), row.get("export")) for row in before}
    return [row["stage"] for row in rows if expected and (row.get("digest"), row.get("export")) != expected.get(row["stage"])]


if __name__ == "__main__":
    raise SystemExit(main())
