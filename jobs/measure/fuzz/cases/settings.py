"""Job files and cards as hypothesis strategies: keys that exist with values that do not fit, keys that do not, broken TOML."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

from jobs.measure.fuzz.cases.case import Case
from jobs.measure.fuzz.cases.parquet import one_in

JOB = {
    "model": {"name": "lightgcn", "layers": 1, "width": 8, "propagation": "full"},
    "table": {"budget": 1.0, "dtype": "float32", "placement": "host"},
    "sampler": {"negatives": "in_batch", "num_negatives": 1, "fanouts": [4], "fraction": 1.0},
    "loss": {"name": "softmax", "temperature": 0.2, "logq": 0.5},
    "optimizer": {"rule": "adam", "learning_rate": 0.01, "schedule": "constant"},
    "sparsity": {"policy": "none", "interval": 0.5, "ratio": 0.3},
    "train": {"epochs": 1, "batch_size": 64, "seed": 0, "refit": False, "device": "auto"},
    "evaluate": {"k": [5], "every": 1, "patience": 0, "metric": "recall@5", "bootstrap": 0, "baselines": []},
    "run": {"name": "fuzz", "checkpoint_every": 1, "keep_checkpoints": 2},
    "data": {},
}
KEYS = [(section, key) for section, keys in JOB.items() for key in keys]
CARD_KEYS = [
    "train", "user", "item", "time", "weight", "split", "valid_size", "test_size", "k_core", "memory_limit", "seed", "name",
]  # fmt: skip
ODD = [
    "", '"', "none", "nan", "dynamic", "sampled", "mf", "graphsage", "itemknn", "ease", "slots", "sgd", "train+valid", "cuda",
    0, -1, 1, 3, 257, 0.0, -0.5, 0.25, 1e-300, 1e300, True, False, [], [0], [-1], [1, 1], ["x"], [[]], [1.5], {}, {"x": 1},
]  # fmt: skip
HUGE = [10**30, 2**63, -(2**63), 2**31, float("inf"), float("nan"), 1e308, "x" * 5000]


def toml(value: Any) -> str:
    """A value as TOML writes it; integers of any size."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case dict():
            return "{" + ", ".join(f"{toml(key)} = {toml(each)}" for key, each in value.items()) + "}"
    return str(value)


@st.composite
def job_text(draw: st.DrawFn, huge: bool) -> bytes:
    """A job file of which up to three keys are changed, added or lost, and one time in eight some bytes."""
    sections = {name: dict(keys) for name, keys in JOB.items()}
    values = st.sampled_from(ODD + HUGE if huge else ODD)
    for _ in range(draw(st.integers(1, 3))):
        section, key = draw(st.sampled_from(KEYS))
        match draw(st.sampled_from(["set", "set", "set", "drop", "unknown key", "unknown section", "section"])):
            case "set" if isinstance(sections.get(section), dict):
                sections[section][key] = deepcopy(draw(values))
            case "drop":
                sections.pop(section, None)
            case "unknown key" if isinstance(sections.get(section), dict):
                sections[section][draw(st.sampled_from(["epoch", "", "lr", "x.y", "Ü"]))] = deepcopy(draw(values))
            case "unknown section":
                sections[draw(st.sampled_from(["trian", "", "a b"]))] = {"x": 1}
            case "section":
                sections[section] = deepcopy(draw(values))  # type: ignore[assignment]
    head = [f"{toml(name)} = {toml(keys)}" for name, keys in sections.items() if not isinstance(keys, dict)]
    body = [
        "\n".join([f"[{toml(name)}]", *(f"{toml(key)} = {toml(each)}" for key, each in keys.items())])
        for name, keys in sections.items()
        if isinstance(keys, dict)
    ]
    text = bytearray("\n".join(head + body).encode())
    if draw(one_in(8)):
        at = draw(st.integers(0, len(text) - 1))
        text[at : at + draw(st.integers(0, 9))] = draw(st.binary(max_size=9))
    return bytes(text)


@st.composite
def job_case(draw: st.DrawFn) -> Case:
    """`check`, or one time in eight `run`, of a job on the data set `tiny`, outside the working folder."""
    given = ["job.toml", "--json", "--data", "../tiny"]
    if draw(one_in(8)):
        return Case("run of a job", {"job.toml": draw(job_text(False))}, ["run", *given, "--out", "out"])
    return Case("check of a job", {"job.toml": draw(job_text(True))}, ["check", *given])


@st.composite
def card_case(draw: st.DrawFn) -> Case:
    """`ingest` of a card whose [data] has odd values; half the time the files that it names are there."""
    keys = draw(st.lists(st.sampled_from(CARD_KEYS), max_size=4))
    values = st.sampled_from([*ODD, *HUGE, "user", "../tiny", "2GB"])
    good = {"train": "../tiny.parquet", "user": "user", "item": "item"} if draw(st.booleans()) else {}
    data = {**good, **{key: draw(values) for key in keys}}
    lines = ["[data]", *(f"{key} = {toml(each)}" for key, each in data.items())]
    return Case("card", {"card.toml": "\n".join(lines).encode()}, ["ingest", "card.toml", "--json", "--out", "out"])
