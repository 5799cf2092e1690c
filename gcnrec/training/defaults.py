"""Settings that follow from the data, for keys that a job leaves open: what suits one graph does not suit another.

Letters: U users, I items, E interactions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gcnrec.config import Loss, Model
from gcnrec.graph import BipartiteGraph

_LEAST_TEMPERATURE, _MOST_TEMPERATURE = 0.05, 0.5
_SHRINKAGE = 2.0


@dataclass(frozen=True)
class Default:
    """A value for the key `section.name`, and why it is that."""

    section: str
    name: str
    value: float | str
    reason: str

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def setting(self) -> str:
        """What `--set` takes to name it."""
        return f"{self.key}={self.value}"


_START_SCALE = Default("model", "start_scale", 0.02, "a step turns a short row further, and only directions count for a cosine")


def defaults(model: Model, loss: Loss, sparse: bool, graph: BipartiteGraph) -> tuple[Default, ...]:
    """The defaults that `graph` gives keys which a trained model's sections leave open and which change something."""
    is_cosine = loss.name in ("softmax", "bsl") and loss.score == "cosine"
    found = []
    if is_cosine and "temperature" not in loss.model_fields_set:
        found.append(_temperature(graph))
    if is_cosine and model.name == "lightgcn" and not sparse and "start_scale" not in model.model_fields_set:
        found.append(_START_SCALE)
    return tuple(found)


def _temperature(graph: BipartiteGraph) -> Default:
    """1 / ((1 + log(U I / E)) m / (m + 2)), m = E / (U + I), within 0.05 .. 0.5.

    A cosine at temperature t reaches logits up to 1/t. What they must reach is log p(i|u) / q(i) of a user's own items: with
    p = 1 / (E / U) and q = 1 / I for a typical pair that is log(U I / E), and 1 more separates liked items. An estimate from m
    interactions deserves m / (m + 2) of that, the shrinkage of a mean by two observations of none.
    """
    pairs, edges = max(graph.num_users * graph.num_items, 1), max(graph.num_edges, 1)
    share, mean = edges / pairs, edges / max(graph.num_users + graph.num_items, 1)
    value = (1.0 + _SHRINKAGE / mean) / (1.0 + math.log(1.0 / share))
    value = round(min(max(value, _LEAST_TEMPERATURE), _MOST_TEMPERATURE), 2)
    return Default("loss", "temperature", value, f"users have {share:.2g} of the items each, nodes {mean:.1f} interactions")
