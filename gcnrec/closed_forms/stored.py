"""What the file of a closed form must hold before a kernel reads it: tensors by name, with dtype and shape, numbers in range.

Letters: I items of the graph; E, K and P any number, the same for all tensors of a file.
"""

from __future__ import annotations

import torch

from gcnrec.errors import DataError
from gcnrec.graph import Csr

Kind = tuple[torch.dtype, tuple[str, ...]]
_NEIGHBOURS: dict[str, Kind] = {"neighbours": (torch.int32, ("I", "K")), "similarity": (torch.float32, ("I", "K"))}
_ROWS: dict[str, Kind] = {
    "indptr": (torch.int64, ("I + 1",)), "indices": (torch.int32, ("E",)), "values": (torch.float32, ("E",)),
}  # fmt: skip
_KNOWN_FIRST: dict[str, Kind] = {
    "indptr": (torch.int64, ("U + 1",)), "indices": (torch.int32, ("E",)), "values": (torch.float32, ("E",)),
    "shares": (torch.float32, ("I",)),
}  # fmt: skip
_POWER: dict[str, Kind] = {"power": (torch.float64, ())}
_SPECTRUM: dict[str, Kind] = {"vectors": (torch.float32, ("I", "K")), "gains": (torch.float32, ("K",))}
_FORMS: dict[str, tuple[dict[str, Kind], ...]] = {
    "popularity": ({"degrees": (torch.float32, ("I",))},),
    "itemknn": (_NEIGHBOURS,),
    "contentknn": (_NEIGHBOURS,),
    "targetknn": (_NEIGHBOURS,),
    "ease": ({"weights": (torch.float32, ("I", "I"))},),
    "linkprop": (_ROWS,),
    "pending": (_KNOWN_FIRST,),
    "repeat": (_KNOWN_FIRST,),
    "gfcf": (
        {"vectors": (torch.float32, ("I", "K")), "weight": (torch.float64, ())},
        _ROWS | _SPECTRUM | _POWER,
        {"coefficients": (torch.float64, ("P",)), **_POWER},
    ),
}
"""By name of the model; gfcf has one for each response."""


def check_stored(name: str, tensors: dict[str, torch.Tensor], num_items: int, where: str, remedy: str) -> None:
    """DataError, naming `where` and the `remedy`, unless `tensors` are what model `name` stores for so many items."""
    forms = [form for form in _FORMS[name] if form.keys() == tensors.keys()]
    if not forms:
        wanted = " or ".join(", ".join(form) for form in _FORMS[name])
        came = ", ".join(sorted(tensors))[:200] or "none"
        raise DataError(f"{where} must hold the tensors of {name!r} ({wanted}), holds {came}; {remedy}")
    sizes = {"I": num_items, "I + 1": num_items + 1}
    for key, (dtype, dims) in forms[0].items():
        found = tensors[key]
        axes = list(zip(dims, found.shape, strict=True)) if len(dims) == found.dim() else [("I", -1)]
        if found.dtype != dtype or any(sizes.setdefault(dim, size) != size for dim, size in axes):
            wanted = " x ".join(str(sizes.get(dim, "any")) for dim in dims) or "one value"
            came = " x ".join(map(str, found.shape)) or "one value"
            raise DataError(f"{where} must hold {key!r} of {dtype}, {wanted}; holds {came} of {found.dtype}; {remedy}")
    if "neighbours" in tensors and tensors["neighbours"].numel():
        least, most = (int(end) for end in torch.aminmax(tensors["neighbours"]))
        if least < -1 or most >= num_items:
            raise DataError(f"{where} must hold 'neighbours' in -1 .. {num_items - 1}, holds {least} .. {most}; {remedy}")
    if "indptr" in tensors:
        Csr(tensors["indptr"].numpy(), tensors["indices"].numpy(), num_items).check(where, remedy)
