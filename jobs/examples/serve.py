"""Recommend from a bundle, with NumPy alone:  python jobs/examples/serve.py shop.safetensors USER [K] [all|none]

`none` leaves no seen item out, as the lists of `gcnrec recommend --seen none`.
Make the bundle with `gcnrec export RUN --format bundle --out shop.safetensors`. Tensors are mapped: opening reads no embedding.
"""

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np


def open_bundle(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    content = np.memmap(path, np.uint8, "r", offset=8 + size)
    facts = header["__metadata__"]
    bundle = {"popularity_factor": np.float32(facts.get("popularity_factor", "0"))}
    bundle["mixture"] = json.loads(facts.get("mixture", "{}"))
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            kind, bits = entry["dtype"][0].lower(), int(entry["dtype"][1:])
            bundle[name] = content[first:last].view(f"{kind}{bits // 8}").reshape(entry["shape"])
    return bundle


def ids_of(bundle: dict[str, np.ndarray], name: str) -> list[str]:
    if name in bundle:
        return bundle[name].astype(str).tolist()
    ends, content = bundle[f"{name}.offsets"].tolist(), bundle[f"{name}.bytes"].tobytes()
    return [content[a:b].decode(errors="backslashreplace") for a, b in pairwise(ends)]


def partner_scores(bundle: dict[str, np.ndarray], name: str, items: np.ndarray) -> np.ndarray:
    part = {key.removeprefix(f"{name}."): array for key, array in bundle.items() if key.startswith(f"{name}.")}
    scores_I = np.zeros(len(bundle["items"]))
    for item in items if "indptr" in part else []:
        row = slice(*part["indptr"][item : item + 2])
        scores_I[part["indices"][row]] += part["values"][row]
    if "vectors" in part:
        low_K = part["gains"] * (part["before"][items, None] * part["vectors"][items]).sum(0)
        scores_I += part["after"] * (part["vectors"] @ low_K)
    if "rows" in part:
        scores_I += part["rows"][items].sum(0)
    return scores_I


def mixed(bundle: dict[str, np.ndarray], trained_I: np.ndarray, user: int) -> np.ndarray:
    mixture = bundle["mixture"]
    shares_I = np.exp((trained_I - trained_I.max()) / mixture["temperature"], dtype=np.float64)
    scores_I = mixture["weight"] / shares_I.sum() * shares_I
    items = bundle["train.indices"][slice(*bundle["train.indptr"][user : user + 2])]
    for name, weight in mixture["partners"].items():
        own_I = partner_scores(bundle, name, items)
        positive_I = np.maximum(own_I, 0)
        if positive_I.max() > 1e-6 * np.abs(own_I).max():  # else it is rounding
            scores_I += weight / positive_I.sum() * positive_I
    return scores_I


def recommend(bundle: dict[str, np.ndarray], user: int, k: int, seen: str = "all") -> np.ndarray:
    scores_I = bundle["items"] @ bundle["users"][user]
    if "popularity" in bundle:
        scores_I += bundle["popularity_factor"] * bundle["popularity"]
    if bundle["mixture"]:
        scores_I = mixed(bundle, scores_I, user)
    if seen == "all":
        first, last = bundle["seen.indptr"][user : user + 2]
        scores_I[bundle["seen.indices"][first:last]] = -np.inf
    best = np.argsort(-scores_I, kind="stable")[:k]  # stable: ties go to the smaller item number
    return best[np.isfinite(scores_I[best])]


if __name__ == "__main__":
    bundle = open_bundle(Path(sys.argv[1]))
    users = ids_of(bundle, "user_ids")
    if sys.argv[2] not in users:
        sys.exit(f"USER must be an id of {sys.argv[1]}, as the data writes it, for example {users[0]!r}; got {sys.argv[2]!r}")
    user = users.index(sys.argv[2])
    items = ids_of(bundle, "item_ids")
    k, seen = int(sys.argv[3]) if len(sys.argv) > 3 else 20, sys.argv[4] if len(sys.argv) > 4 else "all"
    print("\n".join(items[item] for item in recommend(bundle, user, k, seen)))
