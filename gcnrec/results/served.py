"""A run's mixture as arrays that NumPy can rank by: what each partner adds up over a user's items (`gcnrec.results.bundle`).

Letters: U users, I items, K vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gcnrec.closed_forms.ease import EaseScorer
from gcnrec.closed_forms.itemknn import ItemKnnScorer
from gcnrec.closed_forms.linkprop import LinkPropScorer
from gcnrec.closed_forms.mixture import TIE_WEIGHT
from gcnrec.closed_forms.mixture_files import load_partners
from gcnrec.closed_forms.plateau import PlateauScorer, item_scales
from gcnrec.ranking.scorer import Scorer

if TYPE_CHECKING:
    from gcnrec.runs.folder import Run


@dataclass(frozen=True)
class ServedMixture:
    """`weights` for the header, `tensors` by their names in a bundle, `ranks_by` for the user; all empty without a mixture."""

    weights: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    ranks_by: str = ""


def served_mixture(run: Run) -> ServedMixture:
    """The mixture of `run`; none, with the reason in `ranks_by`, where a partner is no sum over items (gfcf's polynomial)."""
    mixture = run.mixture
    if mixture is None or not mixture.partners:
        return ServedMixture()
    csr = run.train_graph.user_items
    tensors = {"train.indptr": _tensor(csr.indptr), "train.indices": _tensor(csr.indices)}
    for name, scorer in load_partners(mixture, run.folder, run.train_graph).items():
        arrays = item_arrays(scorer)
        if arrays is None:
            why = f"{name} as the run has it is no sum over items"
            return ServedMixture(ranks_by=f"the trained part alone: {why}, by {mixture.name}")
        tensors |= {f"{name}.{key}": tensor for key, tensor in arrays.items()}
    weights = {"weight": mixture.weight or TIE_WEIGHT, "temperature": mixture.temperature, "partners": mixture.partners}
    return ServedMixture(weights, tensors, mixture.name)


def item_arrays(scorer: Scorer) -> dict[str, torch.Tensor] | None:
    """What a closed form sums over a user's items, by the names of a bundle; None where it does something else."""
    match scorer:
        case PlateauScorer():
            scales = dict(zip(("before", "after"), item_scales(scorer.graph, scorer.power), strict=True))
            return {**scorer.rows.tensors(), "vectors": scorer.vectors_IK, "gains": scorer.gains_K, **scales}
        case LinkPropScorer():
            return scorer.rows.tensors()
        case ItemKnnScorer():
            kept_IK = scorer.neighbours_IK >= 0
            indptr = torch.nn.functional.pad(kept_IK.sum(1).cumsum(0), (1, 0))
            return {"indptr": indptr, "indices": scorer.neighbours_IK[kept_IK], "values": scorer.similarity_IK[kept_IK]}
        case EaseScorer():
            return {"rows": scorer.weights_II}
    return None


def _tensor(array: np.ndarray) -> torch.Tensor:  # type: ignore[type-arg]
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
