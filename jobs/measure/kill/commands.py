"""The command lines that are ended: their words, what lies there before, and what must be whole at each moment."""

from __future__ import annotations

from dataclasses import dataclass

STEPS = "steps"
"""The name of trials of `trials.py`: training runs that are killed at a counted step."""


@dataclass(frozen=True)
class Case:
    """A command line, typed in an empty working directory; `{bed}` stands for the folder of inputs.

    `before`: folders and files of the bed that are copied into the working directory first. `whole`: what holds all of the old
    or all of the new at each moment. `run`: the run folder that the command begins, and that continues with --resume.
    `prints`: whether equal commands print equal lines. `code`: the exit code of an uninterrupted command.
    """

    name: str
    words: str
    weight: int
    before: tuple[tuple[str, str], ...] = ()
    whole: tuple[str, ...] = ()
    run: str = ""
    prints: bool = False
    code: int = 0

    @property
    def command(self) -> str:
        return self.words.split()[0]


_EVENTS = "ingest --train {bed}/events.parquet --user user --item item --time time --out data"
_RICH = f"{_EVENTS} --split temporal --k-core 2 --where item%7<>3 --item-features {{bed}}/features.parquet --memory-limit 64MB"
_PAIRS = "ingest --train {bed}/pairs.parquet --test {bed}/held.parquet --valid-size 0 --user user --item item --out data"
_NEW = "recommend {bed}/run --out recs.parquet --new-users {bed}/new.parquet --k 10"
CASES = (
    Case("ingest", _EVENTS, 10, whole=("data",)),
    Case("ingest features", _RICH, 6, whole=("data",)),
    Case("ingest pairs", _PAIRS, 6, whole=("data",)),
    Case("ingest --force", f"{_EVENTS} --force", 10, (("old", "data"),), ("data",)),
    Case("train", "train {bed}/job.toml --data {bed}/data --out run", 5, run="run"),
    Case("run", "run {bed}/job.toml --data {bed}/data --out run --log-json", 6, run="run"),
    Case("run [data]", "run {bed}/shop.toml", 6, run="runs/shop"),
    Case("evaluate", "evaluate run", 8, (("trained", "run"),), ("run/metrics.json", "run/per_user.parquet")),
    Case(
        "evaluate segments",
        "evaluate run --k 5,10 --segments {bed}/segments.parquet",
        5,
        (("run", "run"),),
        ("run/metrics.json", "run/per_user.parquet"),
    ),
    Case("recommend", "recommend {bed}/run --out recs.parquet", 9, whole=("recs.parquet",)),
    Case("recommend new users", _NEW, 5, whole=("recs.parquet",)),
    Case("recommend over", _NEW, 3, (("recs.parquet", "recs.parquet"),), ("recs.parquet",), code=2),
    Case("similar", "similar {bed}/run --out similar.parquet --k 10", 4, whole=("similar.parquet",)),
    Case("score", "score {bed}/run --pairs {bed}/recs.parquet --out scores.parquet", 4, whole=("scores.parquet",)),
    Case("export bundle", "export {bed}/run --format bundle --out served.safetensors", 5, whole=("served.safetensors",)),
    Case("export parquet", "export {bed}/run --format parquet --out served", 5, whole=("served",)),
    Case("export faiss", "export {bed}/run --format faiss --out index", 5, whole=("index",)),
    Case("sweep", "sweep {bed}/grid.toml --data {bed}/data --out sweep", 1),
    Case("check", "check {bed}/job.toml --data {bed}/data --json", 3),
    Case("check --resolved", "check {bed}/job.toml --data {bed}/data --resolved", 2, prints=True),
    Case("compare", "compare {bed}/run {bed}/second --json", 4, prints=True),
    Case("info dataset", "info {bed}/data --json", 3, prints=True),
    Case("info run", "info {bed}/run --json", 3, prints=True),
    Case(STEPS, STEPS, 2),
)
"""Weights are shares of the trials."""

JOB = """
[model]
width = 16
layers = 2

[optimizer]
rule = "adam"
learning_rate = 0.01

[train]
epochs = 3
batch_size = 512
threads = 1

[evaluate]
k = [5, 20]
bootstrap = 20
baselines = ["popularity"]

[run]
checkpoint_steps = 5
keep_checkpoints = 2
"""
SHOP = """
[data]
train = "{bed}/events.parquet"
user = "user"
item = "item"
time = "time"
"""
GRID = """
job = "job.toml"

[train]
epochs = 1

[grid]
train.seed = [0, 1]
"""
