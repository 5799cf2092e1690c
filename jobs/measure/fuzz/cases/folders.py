"""Damaged dataset folders and run folders under every command that opens them."""

from __future__ import annotations

from pathlib import Path
from random import Random

from jobs.measure.fuzz.cases.case import Case, Damage, at_random
from jobs.measure.fuzz.world import LOOSE_FILES, files_of

ODD_NAMES = ["times.npy", "weights.npy", "user_features.npy", "item_features.npy", "user_items.values.npy", "README", ".DS_Store"]
"""Files that a dataset folder may get and does not list."""
FORGED = [".npy"] * 4 + [".parquet"] * 2
RUN_OF = {"dense": "data", "slots": "data", "closed": "plain", "mixture": "plain", "begun": "data"}
TRAIN = ["train", "job.toml", "--data"]


def opened_with(draw: Random, run: str, data: str) -> tuple[list[str], tuple[str, ...]]:
    """A command line that opens a run folder and its dataset, and the folder that it may write to."""
    out = draw.choice(["parquet", "bundle", "faiss"])
    commands: list[tuple[list[str], tuple[str, ...]]] = [
        (["evaluate", run, "--json"], (f"{run}/",)),
        (["evaluate", run, "--json", "--split", "valid"], (f"{run}/",)),
        (["evaluate", run, "--json", "--k", "3,7", "--segments", "segments.csv"], (f"{run}/",)),
        (["recommend", run, "--k", "5", "--out", "out.parquet", "--json"], ()),
        (["recommend", run, "--k", "5", "--out", "out.parquet", "--users", "users.csv", "--exclude", "pairs.csv"], ()),
        (["recommend", run, "--k", "5", "--out", "out.parquet", "--candidates", "pairs.csv", "--seen", "none"], ()),
        (["similar", run, "--k", "5", "--out", "out.parquet", "--json"], ()),
        (["score", run, "--pairs", "pairs.csv", "--out", "out.parquet", "--seen", "all"], ()),
        (["export", run, "--format", out, "--out", "out", "--json"], ()),
        (["info", run, "--json"], ()),
        (["train", "job.toml", "--data", data, "--out", run, "--resume", "--json"], (f"{run}/",)),
    ]
    return draw.choice(commands)


def dataset_case(draw: Random, kept: Path) -> Case:
    """A damaged dataset folder: bytes, whole files, tables and arrays, unlisted files; sometimes with digests made anew."""
    run = draw.choice(["dense", "dense", "slots", "closed", "mixture", "begun"])
    data = RUN_OF[run]
    sealed = draw.random() < 0.25
    files = files_of(kept, data)
    if sealed:
        suffix = draw.choice(FORGED)
        file = draw.choice([file for file in files if file.endswith(suffix)])
        damages = (
            Damage(
                file, draw.choice(["array" if file.endswith(".npy") else "columns"] * 3 + ["set", "cut"]), draw.getrandbits(32)
            ),
        )
    elif draw.random() < 0.15:
        damages = (Damage(f"{data}/{draw.choice(ODD_NAMES)}", "other", draw.getrandbits(32)),)
    else:
        damages = tuple(at_random(draw, files) for _ in range(draw.choice([1, 1, 1, 1, 2])))
    alone = [
        (["check", "job.toml", "--data", data, "--json"], ()),
        ([*TRAIN, data, "--out", "new", "--set", "train.epochs=1", "--json"], ()),
        (["info", data, "--json"], ()),
    ]
    arguments, writes = draw.choice(alone) if draw.random() < (0.6 if sealed else 0.35) else opened_with(draw, run, data)
    kind = "forged dataset" if sealed else "damaged dataset"
    return _case(draw, (kind, run), arguments, writes, damages)


def run_case(draw: Random, kept: Path) -> Case:
    """A damaged run folder: any of its files, or a file that is new there."""
    run = draw.choice(["dense", "dense", "slots", "closed", "mixture", "mixture", "begun", "begun"])
    data = RUN_OF[run]
    if draw.random() < 0.03:
        damages = tuple(at_random(draw, [file for file in files_of(kept, "sweep/runs")]) for _ in range(1))
        return _case(
            draw, ("damaged sweep", "sweep"), ["sweep", "grid.toml", "--data", "plain", "--out", "sweep"], ("sweep/",), damages
        )
    files = files_of(kept, run)
    if draw.random() < 0.05:
        name = draw.choice(
            [
                "run.lock",
                "mixture.json",
                "table.safetensors",
                "metrics.valid.json",
                "checkpoints/earlier-fit-000009-000000009.safetensors",
            ]
        )
        damages = (
            Damage(f"{run}/{name}", draw.choice(["append", "json", "other", "folder", "loop", "dangling"]), draw.getrandbits(32)),
        )
    else:
        damages = tuple(at_random(draw, files) for _ in range(draw.choice([1, 1, 1, 1, 1, 2])))
    arguments, writes = opened_with(draw, run, data)
    if draw.random() < 0.2:
        second = draw.choice([name for name, of in RUN_OF.items() if of == data and name not in (run, "begun")])
        arguments, writes = draw.choice(
            [(["compare", second, run, "--json"], ()), (["info", run, "--since", second, "--json"], ())]
        )
    return _case(draw, ("damaged run", run), arguments, writes, damages)


def _case(
    draw: Random, named: tuple[str, str], arguments: list[str], writes: tuple[str, ...], damages: tuple[Damage, ...]
) -> Case:
    kind, run = named
    world = ("plain", "sweep", *LOOSE_FILES) if run == "sweep" else (RUN_OF[run], run, *LOOSE_FILES)
    second = [part for part in arguments[1:] if part in RUN_OF and part != run]
    world += tuple(part for part in second if part not in world)
    sealed = kind.startswith("forged")
    before = run == "dense" and not sealed and draw.random() < 0.25
    twin = None if sealed or arguments[0] in ("info", "check") else Case(kind, {}, arguments, world=world, writes=writes)
    return Case(
        kind, {}, arguments, world=world, damages=damages, writes=writes, read_before=before, sealed=sealed, twin=twin,
    )  # fmt: skip
