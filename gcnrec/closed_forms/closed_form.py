"""The baselines without training, behind one door: fit by name, save, load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from gcnrec import config
from gcnrec.closed_forms import ease, exponents, gfcf, itemknn, linkprop
from gcnrec.closed_forms.known_first import pending, repeat
from gcnrec.closed_forms.known_first.scorer import KnownFirstScorer
from gcnrec.closed_forms.stored import check_stored
from gcnrec.errors import DataError, UsageError, first_line, nearest, reading
from gcnrec.graph import BipartiteGraph
from gcnrec.interactions import Interactions
from gcnrec.ops.topk import Seen
from gcnrec.ranking import popularity
from gcnrec.ranking.scorer import Scorer
from gcnrec.storage.tensors import save_tensors


class ClosedFormScorer(Scorer, Protocol):
    """A scorer that can be stored as tensors without its graph."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """What must be stored, the graph apart, to score again."""
        ...


Fit = Callable[[BipartiteGraph, config.Model, int], ClosedFormScorer]
Read = Callable[[BipartiteGraph, dict[str, torch.Tensor]], ClosedFormScorer]
_FORMS: dict[str, tuple[Fit, Read]] = {
    "popularity": (popularity.fit, popularity.PopularityScorer.from_tensors),
    "itemknn": (itemknn.fit, itemknn.ItemKnnScorer.from_tensors),
    "ease": (ease.fit, ease.EaseScorer.from_tensors),
    "linkprop": (linkprop.fit, linkprop.LinkPropScorer.from_tensors),
    "gfcf": (gfcf.fit, gfcf.from_tensors),
    "pending": (pending.fit, KnownFirstScorer.from_tensors),
    "repeat": (repeat.fit, KnownFirstScorer.from_tensors),
    "targetknn": (itemknn.fit_towards, itemknn.read_towards),
}
_OF_THE_TARGET = ("popularity", "pending", "repeat", "targetknn")
"""Models that separate the target from other behaviours; all others read one graph of all behaviours."""
_CONTENT = "contentknn"
"""It alone reads features."""
NAMES = (*_FORMS, _CONTENT)
OF_BEHAVIOURS = ("pending", "targetknn")
"""Models for data with several behaviours only."""
OF_REPEATS = "repeat"
"""It alone needs lists that may hold what a user has taken."""


def fit(
    name: str, graph: BipartiteGraph, settings: config.Model, seed: int, items_IF: NDArray[np.float32] | None = None
) -> ClosedFormScorer:
    """Fit the baseline `name` on `graph` and, if it reads them, item features, with its keys of `[model]`.

    Raises UsageError for another name, DataError where features are needed and there are none.
    """
    _check(name)
    if name == _CONTENT:
        return itemknn.fit_content(_read_by(name, graph), settings, items_IF)
    return _FORMS[name][0](_read_by(name, graph), settings, seed)


def refuse_impossible(settings: config.Model, graph: BipartiteGraph, has_features: bool, num_valid: int) -> None:
    """Raise what `fit` and `tuned` would for the closed form `settings.name`, by sizes alone: before anything is begun.

    `has_features`: of items; `num_valid`: validation pairs.
    """
    match settings.name:
        case "pending":
            pending.require_others(bool(graph.others))
        case "targetknn":
            itemknn.require_others(bool(graph.others))
        case "ease":
            ease.refuse_too_large(graph.num_items)
        case "contentknn":
            itemknn.require_features(has_features)
        case "linkprop" if settings.exponents == "auto":
            exponents.require_valid(num_valid)


def tuned(name: str, graph: BipartiteGraph, valid: Interactions, settings: config.Model, seen: Seen) -> config.Model:
    """`settings` for `fit`, with what model `name` leaves to validation chosen there: linkprop's exponents where they are "auto".

    Lists of validation leave `seen` out (user -> items).
    Raises UsageError where that needs validation pairs and there are none.
    """
    chooses = name == "linkprop" and settings.exponents == "auto"
    return exponents.chosen(graph.union, valid, settings, seen) if chooses else settings


def save(scorer: ClosedFormScorer, path: Path) -> None:
    """Write the scorer's tensors to a safetensors file. The graph is not in it."""
    save_tensors({name: tensor.contiguous() for name, tensor in scorer.tensors().items()}, path, {})


def load(name: str, graph: BipartiteGraph, path: Path) -> ClosedFormScorer:
    """The scorer that `save` wrote, over the graph that it was fitted on.

    Raises DataError when the file is not whole, or its tensors are not of such a model with as many items as the graph has.
    """
    _check(name)
    remedy = "fit the model again"
    with reading(path, remedy):
        try:
            tensors = load_file(path)
        except SafetensorError as problem:
            raise DataError(f"{path} cannot be read as the tensors of {name!r} ({first_line(problem)}); {remedy}") from None
    check_stored(name, tensors, graph.num_items, str(path), remedy)
    read = itemknn.ItemKnnScorer.from_tensors if name == _CONTENT else _FORMS[name][1]
    return read(_read_by(name, graph), tensors)


def load_partner(name: str, graph: BipartiteGraph, path: Path) -> Scorer:
    """`load`, as the model ranks in a mixture."""
    scorer = load(name, graph, path)
    return scorer.alone if isinstance(scorer, KnownFirstScorer) else scorer


def _read_by(name: str, graph: BipartiteGraph) -> BipartiteGraph:
    """What the model `name` reads of the graph of a data set."""
    return graph if name in _OF_THE_TARGET else graph.union


def _check(name: str) -> None:
    if name not in NAMES:
        raise UsageError(f"a model without training must be one of {', '.join(NAMES)}, got {name!r}{nearest(name, NAMES)}")
