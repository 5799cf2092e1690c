"""Keys whose default depends on another key of the job, and which key that is: what `--resolved` says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gcnrec.config.job import INDUCTIVE, PRESETS, Job
from gcnrec.config.toml import as_toml


@dataclass(frozen=True, slots=True)
class _Following:
    """`key` has the default `value` where `cause` is one of `values`."""

    key: str
    value: Any
    cause: str
    values: tuple[Any, ...]


_FOLLOWING = (
    _Following("model.propagation", "sampled", "model.name", INDUCTIVE),
    _Following("model.factors", 512, "model.response", ("plateau",)),
    _Following("model.filter_weight", 0.2, "model.response", ("plateau",)),
    _Following("optimizer.rule", "adam", "model.propagation", ("sampled",)),
    _Following("sampler.negatives", "uniform", "loss.name", ("bpr",)),
    _Following("loss.score", "inner", "loss.name", ("bpr",)),
)


def following(job: Job) -> dict[str, str]:
    """`section.key` of a resolved job -> why it has its value, for keys with the default that another key brings."""
    found = {}
    for rule in _FOLLOWING:
        cause = _value(job, rule.cause)
        if cause in rule.values and _value(job, rule.key) == rule.value:
            found[rule.key] = f"the default with {rule.cause} = {as_toml(cause)}"
    for section, limits in PRESETS.get(job.run.preset or "", {}).items():
        for key, value in limits.items():
            if _value(job, f"{section}.{key}") == value:
                found[f"{section}.{key}"] = f"the size limit of run.preset = {as_toml(job.run.preset)}"
    if job.is_sparse and job.sparsity.policy == "dynamic":
        found["sparsity.policy"] = f"the default with table.budget = {as_toml(job.table.budget)}"
    return found


def _value(job: Job, name: str) -> Any:
    section, _, key = name.partition(".")
    return getattr(getattr(job, section), key)
