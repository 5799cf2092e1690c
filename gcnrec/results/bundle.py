"""A bundle: all that serving a run's recommendations needs, in one safetensors file that NumPy alone can read.

    users (U, F) float32, items (I, F) float32; score = inner product, ties to the smaller item number
    popularity (I) float32, log q of the items, where the export has such a column: score += popularity_factor * popularity
    seen.indptr (U + 1) int64, seen.indices int32: user -> items of train, valid and test, which `gcnrec recommend` leaves out
    user_ids, item_ids: integers in their own type; other ids as user_ids.bytes uint8 (text as UTF-8, and so are UUIDs,
    decimals and ISO dates), id n being the bytes from user_ids.offsets[n] to user_ids.offsets[n + 1] (int64), and likewise for
    items

Of a mixture (`gcnrec.closed_forms.mixture`), user -> items of what it was trained on, and for each partner what it sums over a
user's items j: one or both of sparse rows, and vectors; or whole rows

    train.indptr (U + 1) int64, train.indices int32
    NAME.indptr (I + 1) int64, NAME.indices int32, NAME.values float32: score += row j
    NAME.vectors (I, K), NAME.before (I), NAME.gains (K), NAME.after (I): score += after * vectors @ (gains * before_j vectors_j)
    NAME.rows (I, I) float32: score += row j

The header holds text: `format` "gcnrec-bundle", `version`, `model`, `trained_on`, `job` (TOML), `data` and `digest` (of the
dataset), `user_id_type`, `item_id_type` (Arrow's names), `popularity_factor`, `mixture` (JSON: weight and temperature of the
trained part, weights of partners; no partners: the trained part alone), `conventions` and `metrics` (both JSON), and
`evaluate_seen`: "none" where the lists behind `metrics` leave nothing out, "all" where they leave train and validation out.
`jobs/examples/serve.py` reads one. Letters: U users, I items, F width, K vectors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from gcnrec.closed_forms.ease import EaseScorer
from gcnrec.closed_forms.itemknn import ItemKnnScorer
from gcnrec.closed_forms.linkprop import LinkPropScorer
from gcnrec.closed_forms.mixture import TIE_WEIGHT
from gcnrec.closed_forms.plateau import PlateauScorer, item_scales
from gcnrec.config.toml import to_toml
from gcnrec.graph import Csr, merged
from gcnrec.ids.id_types import family, plain
from gcnrec.interactions import Vocabulary
from gcnrec.loaders.schema import Dataset
from gcnrec.ranking.export_rules import Exported
from gcnrec.ranking.metrics import measured
from gcnrec.ranking.scorer import Scorer
from gcnrec.results.evaluate import rule_of
from gcnrec.runs.folder import Run
from gcnrec.runs.paths import metrics_path
from gcnrec.storage.files import atomic_file
from gcnrec.storage.tensors import save_tensors

FORMAT, VERSION = "gcnrec-bundle", "2"
CONVENTIONS = {
    "score": "inner product of a row of users and a row of items, plus popularity_factor * popularity where there is one",
    "mixture": "weight * softmax(score / temperature) + sum over partners of weight * max(their score, 0) / its sum over items",
    "order": "falling score, ties to the smaller item number; items are numbered by falling train degree",
    "seen": "items of train, valid and test, left out of a user's list; metrics leave out what evaluate_seen says",
    "recall@k": "hits in the first k / held-out items of the user, mean over users with held-out items; all items ranked",
    "ndcg@k": "gain 1 a hit, discount 1 / log2(rank + 1), over the ideal list of min(k, held-out) hits",
}

SEEN_WITH_NEGATIVES = f"items that the user rated low, and {CONVENTIONS['seen']}"
"""What the convention says of data with negative pairs."""


def write_bundle(run: Run, embeddings: Exported, out: Path) -> dict[str, Any]:
    """Write the bundle of `run` to the file `out` and return its figures. DataError when it cannot be written."""
    dataset = run.dataset
    seen = known_items(dataset)
    arrays: dict[str, NDArray[Any]] = {
        "seen.indptr": seen.indptr, "seen.indices": seen.indices,
        **_id_arrays("user_ids", dataset.user_ids), **_id_arrays("item_ids", dataset.item_ids),
    }  # fmt: skip
    tensors = {"users": embeddings.users_UF, "items": embeddings.items_IF}
    if embeddings.popularity_I is not None:
        tensors["popularity"] = embeddings.popularity_I
    tensors |= {name: _tensor(array) for name, array in arrays.items()}
    mixture = served_mixture(run)
    tensors |= mixture.tensors
    more = {"popularity_factor": repr(embeddings.factor), "mixture": json.dumps(mixture.weights)}
    with atomic_file(out) as path:
        save_tensors(tensors, path, {**_header(run), **more})
    nbytes = sum(tensor.nbytes for tensor in tensors.values())
    counts = {"users": len(embeddings.users_UF), "items": len(embeddings.items_IF), "seen": seen.num_edges, "bytes": nbytes}
    return {**counts, **({"ranks_by": mixture.ranks_by} if mixture.ranks_by else {})}


def is_bundle(path: Path) -> bool:
    """Whether a file is a whole bundle, as its header says."""
    try:
        with safe_open(path, "np") as tensors:
            return (tensors.metadata() or {}).get("format") == FORMAT
    except (OSError, SafetensorError):
        return False


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
    csr = run.train_graph.union.user_items
    tensors = {"train.indptr": _tensor(csr.indptr), "train.indices": _tensor(csr.indices)}
    for name, scorer in run.partners(mixture, run.train_graph).items():
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


def known_items(dataset: Dataset) -> Csr:
    """User -> items of train, valid and test, and items that the user rated low."""
    return merged((*dataset.known_items(dataset.valid, dataset.test), *dataset.known_negatives(later=2)))


def _header(run: Run) -> dict[str, str]:
    conventions = CONVENTIONS if run.dataset.negatives is None else {**CONVENTIONS, "seen": SEEN_WITH_NEGATIVES}
    written = run.metrics("test") if metrics_path(run.folder, "test").is_file() else {}
    return {
        "format": FORMAT, "version": VERSION, "model": run.job.model.name,
        "trained_on": "train+valid" if run.refitted else "train", "job": to_toml(run.job),
        "data": run.dataset.name, "digest": run.dataset.digest,
        "user_id_type": str(run.dataset.user_ids.ids.type), "item_id_type": str(run.dataset.item_ids.ids.type),
        "conventions": json.dumps(conventions), "metrics": json.dumps(measured(written)), "evaluate_seen": rule_of(run),
    }  # fmt: skip


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _id_arrays(name: str, vocabulary: Vocabulary) -> dict[str, NDArray[Any]]:
    ids = vocabulary.ids.cast(plain(vocabulary.type))
    if pa.types.is_integer(ids.type):
        return {name: ids.to_numpy(zero_copy_only=False)}
    if family(vocabulary.type) == "UUIDs":
        ids = pa.array([str(UUID(bytes=one)) for one in ids.to_pylist()])
    if pa.types.is_decimal(ids.type) or pa.types.is_date(ids.type):
        ids = ids.cast(pa.string())
    whole = pa.concat_arrays([pc.cast(ids, pa.large_binary())])  # copy: so that offsets start at 0
    offsets = np.frombuffer(whole.buffers()[1], np.int64, len(whole) + 1, 8 * whole.offset)
    content = np.frombuffer(whole.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    return {f"{name}.offsets": offsets - offsets[0], f"{name}.bytes": content}
