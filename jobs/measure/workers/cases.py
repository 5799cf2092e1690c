"""The settings of runs that several workers share: the product of the ways in which a step can differ, and what is special."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from itertools import product

from gcnrec.config import Job

PARTS = 4
_COMMON = {
    "model": {"width": 16, "layers": 2, "propagation": "none", "start": "normal"},
    "optimizer": {"rule": "adam", "learning_rate": 0.02, "schedule": "cosine"},
    "train": {"epochs": 2, "batch_size": 256, "threads": 1},
    "evaluate": {"k": [5, 20], "bootstrap": 0, "baselines": []},
}
_DYNAMIC = ["table.budget=0.25", 'sparsity.policy="dynamic"', "sparsity.interval=0.5", "sparsity.batches=2"]
_SAMPLED = ['model.propagation="sampled"', "sampler.fanouts=[4, 3]"]
_TABLES = {"dense": [], "float32": _DYNAMIC, "bfloat16": [*_DYNAMIC, 'table.dtype="bfloat16"']}
_NEGATIVES = {"in_batch": [], "popularity": ['sampler.negatives="popularity"', "sampler.num_negatives=3"]}
_SAGE = ['model.name="graphsage"', *_SAMPLED]
_POLICIES = {
    "static": [], "set": [], "rigl": [], "dsl": [], "sparserec": [], "gradual": [], "nm": [],
}  # fmt: skip
"""Further settings of each policy; the product has `dynamic`."""


@dataclass(frozen=True, slots=True)
class Case:
    """A job by the kind of its data and what it sets."""

    name: str
    data: str
    settings: tuple[str, ...]

    @property
    def folder(self) -> str:
        """The name as that of a folder."""
        return self.name.replace(" ", "-")

    def job(self, parts: int | None = PARTS) -> Job:
        """The job in so many parts; None leaves `train.parts` out, which earlier versions do not know."""
        shares = [] if parts is None else [f"train.parts={parts}"]
        return Job.parse(deepcopy(_COMMON), [*self.settings, *shares], self.name)


def _product() -> list[Case]:
    ways = product({"none": [], "sampled": _SAMPLED}.items(), _TABLES.items(), ("adam", "adagrad_row"), _NEGATIVES.items())
    return [
        Case(f"{one} {table} {rule} {kind}", "plain", (*hops, *slots, f'optimizer.rule="{rule}"', *negatives))
        for (one, hops), (table, slots), rule, (kind, negatives) in ways
    ]


def _policies() -> list[Case]:
    interval = ["table.budget=0.25", "sparsity.interval=0.5"]
    return [
        Case(f"policy {name}", "plain", (*_SAMPLED, *interval, f'sparsity.policy="{name}"', *more))
        for name, more in _POLICIES.items()
    ]


_SPECIAL = {
    "bpr exclude_seen": ("plain", ['loss.name="bpr"', 'sampler.negatives="uniform"', "sampler.exclude_seen=true"]),
    "bsl in batch": ("plain", ['loss.name="bsl"', "loss.positive_temperature=0.2"]),
    "bsl drawn, adam_row": ("plain", ['loss.name="bsl"', *_NEGATIVES["popularity"], 'optimizer.rule="adam_row"']),
    "logq, sgd, a fraction": ("plain", ["loss.logq=1.0", 'optimizer.rule="sgd"', "sampler.fraction=0.6"]),
    "every row": ("plain", ['model.name="mf"', 'model.propagation="full"', 'optimizer.rule="adam_dense"']),
    "bfloat16 products": ("plain", ['loss.precision="bfloat16"']),
    "spectral start, refit": ("plain", [*_SAMPLED, 'model.start="spectral"', 'train.refit="train+valid"']),
    "refit of slots, patience": (
        "plain", [*_TABLES["bfloat16"], 'train.refit="train+valid"', "train.epochs=4", "evaluate.patience=1"],
    ),
    "disliked and weights": ("rated", ["loss.negative_weight=0.5"]),
    "disliked, sampled": ("rated", [*_SAMPLED, "loss.negative_weight=0.5", *_NEGATIVES["popularity"]]),
    "weighted neighbours": ("rated", [*_SAMPLED, 'sampler.neighbours="weighted"']),
    "weighted graph": ("rated", [*_SAMPLED, "model.weighted_graph=true"]),
    "graphsage float32": ("shop", [*_SAGE]),
    "graphsage int8": ("shop", [*_SAGE, 'model.feature_dtype="int8"', "model.id_dropout=0.2"]),
    "graphsage bfloat16": ("shop", [*_SAGE, 'model.feature_dtype="bfloat16"', "sampler.exclude_positives=true"]),
    "graphsage features alone": ("shop", [*_SAGE, 'model.inputs="features"']),
    "graphsage slots": ("shop", [*_SAGE, *_DYNAMIC]),
    "graphsage int8 refit": ("shop", [*_SAGE, 'model.feature_dtype="int8"', 'train.refit="train+valid"']),
    "pinsage": ("shop", ['model.name="pinsage"', *_SAMPLED, "sampler.walks=6"]),
    "behaviours merge": ("shop", [*_SAMPLED, 'model.behaviours="merge"']),
    "behaviours merge, mf": ("shop", ['model.behaviours="merge"']),
}  # fmt: skip
CASES = {case.name: case for case in (*_product(), *_policies(), *(Case(n, d, tuple(s)) for n, (d, s) in _SPECIAL.items()))}
"""All cases by name."""
_FULL = ['model.propagation="full"']
_ALONE = {
    "full 1 layer": ("plain", [*_FULL, "model.layers=1"]),
    "full 3 layers, adam_dense": ("plain", [*_FULL, "model.layers=3", 'optimizer.rule="adam_dense"']),
    "full slots": ("plain", [*_FULL, *_DYNAMIC, *_NEGATIVES["popularity"]]),
    "full, behaviours weighted": ("shop", [*_FULL, 'model.behaviours="weighted"']),
    "full, behaviours cascade": ("shop", [*_FULL, 'model.behaviours="cascade"']),
    "full, weighted graph": ("rated", [*_FULL, "model.weighted_graph=true", "loss.negative_weight=0.5"]),
    "ngcf": ("plain", ['model.name="ngcf"', *_FULL]),
    "directau": ("plain", ['loss.name="directau"']),
    "no past of its own": ("shop", [*_SAMPLED, "sampler.respect_time=true"]),
    "mixture": ("plain", [*_FULL, 'mixture.with=["itemknn", "gfcf"]']),
    "mixture of behaviours, refit": ("shop", [*_SAMPLED, 'mixture.with="auto"', 'train.refit="train+valid"']),
}
"""What workers share by columns, or one process trains alone."""
WHOLE = CASES | {name: Case(name, data, tuple(settings)) for name, (data, settings) in _ALONE.items()}
"""All jobs of whole batches by name."""
