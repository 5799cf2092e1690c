"""Which columns of a feature file become features, and the statistics of each, gathered in passes over the file.

Letters: R rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa
import pyarrow.dataset as ds

from gcnrec.errors import DataError
from gcnrec.loaders.features.bag_of_words import BagFit, TfIdf
from gcnrec.loaders.features.categories import CategoryFit, Hashed, MultiHot, OneHot
from gcnrec.loaders.features.numbers import NumberFit, Numbers
from gcnrec.loaders.features.texts import TextFit, TextOrNames, Texts, with_words
from gcnrec.loaders.features.values import Kind, Place, is_list, kind_of
from gcnrec.loaders.ingest.inputs import Input
from gcnrec.system.scratch import Scratch

_BATCH_ROWS = 4096
_BATCH_BYTES = 2**20
"""Of rows that are read at a time; what is made of them takes ten times as much. The same for every memory limit, as sums over a
column depend on where batches begin."""
_MOST_HELD = 2**28
"""Bytes of words that are counted in one array: Arrow's texts must stay below 2 GiB."""

Encoder = Numbers | OneHot | Hashed | MultiHot | TfIdf | Texts
"""A fitted input column."""
Fit = NumberFit | CategoryFit | TextOrNames | BagFit | TextFit
"""What gathers the statistics of an input column."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What a user chooses of columns: `text_width` columns for words, which columns of text have `texts` of several words, and
    by how much each part is scaled, `weights` by name, 1 without; 0 leaves a column out."""

    text_width: int = 256
    texts: Collection[str] = ()
    weights: Mapping[str, float] = field(default_factory=dict)


def check_columns(source: Input, column: str, choices: Choices, limit: int) -> None:
    """Raise for columns that cannot be used, by their types and the choices alone; `limit` is that of all memory."""
    _fits(source, column, choices, limit // 4)


def fitted(source: Input, column: str, choices: Choices, scratch: Scratch) -> list[Encoder]:
    """The encoders of all columns but `column`, in the order of the file.

    One pass for the statistics of all columns, one for the words of columns that turn out to hold texts, and one for each bag of
    words that is projected.
    """
    fits, limit = _fits(source, column, choices, scratch.limit // 4), scratch.limit // 4
    _observe(fits, source, column, limit)
    texts = [fit.place for fit in fits if isinstance(fit, TextOrNames) and fit.has_texts]
    late = {place.name: TextFit(_bag(place, None, choices.text_width, limit, len(texts))) for place in texts}
    if late:
        _observe(list(late.values()), source, column, limit)
    return [
        _encoder(late.get(fit.place.name, fit), partial(batches, source, column), choices.text_width, scratch) for fit in fits
    ]


def _observe(fits: Sequence[Fit], source: Input, column: str, most: int) -> None:
    for first, batch in batches(source, column):
        for fit in fits:
            fit.observe(batch, first)
        _check_size(fits, most)


def _encoder(fit: Fit, read: Callable[[], Iterator[tuple[int, pa.RecordBatch]]], text_width: int, scratch: Scratch) -> Encoder:
    """What a column becomes; `read` reads the file once more, for words that are projected."""
    if isinstance(fit, TextFit):
        name = fit.place.name
        words = ((first, with_words(batch, name)) for first, batch in read())
        return Texts(_projected(fit.bag, words, text_width, scratch))
    if isinstance(fit, BagFit):
        return _projected(fit, read(), text_width, scratch)
    return fit.fitted()


def _projected(
    fit: BagFit, found: Iterable[tuple[int, pa.RecordBatch]], text_width: int, scratch: Scratch
) -> MultiHot | TfIdf:  # fmt: skip
    bag = fit.fitted()
    if isinstance(bag, TfIdf) and bag.width > text_width:
        bag = bag.projected(text_width, found, scratch, fit.place)
    return bag


def _check_size(fits: Iterable[Fit], most: int) -> None:
    """DeviceError, naming the largest, where statistics and distinct values of all columns take more than `most` bytes.

    What bags hold has a bound of its own.
    """
    sizes = [(fit.nbytes, fit.place) for fit in fits if not isinstance(fit, BagFit | TextFit)]
    total = sum(size for size, _ in sizes)
    if total > most:
        size, place = max(sizes, key=lambda each: each[0])
        raise place.too_large(
            f"takes {size:,} bytes of {total:,} for the statistics of all columns, of which memory_limit allows {most:,}; "
            f"shorten its texts or vectors, leave it out, or set --memory-limit {4 * total // 10**6 + 1}MB"
        )


def _fits(source: Input, column: str, choices: Choices, limit: int) -> list[Fit]:
    """What gathers the statistics of each column, in the order of the file."""
    schema = source.dataset.schema
    names = [name for name in schema.names if name != column.split(".")[0] and choices.weights.get(name) != 0]
    if not names:
        raise DataError(f"{source.text} holds no feature column other than {column!r}")
    kinds = {name: kind_of(source.field(name).type, Place(source.text, name)) for name in names}
    counts = _counts(source, kinds)
    bags = sum(kind == "bag" or name in choices.texts for name, kind in kinds.items())
    fits: list[Fit] = []
    for name, kind in kinds.items():
        place = Place(source.text, name)
        if name in choices.texts and kind != "category":
            raise place.refuse(
                f"must hold text, as features_text names it, it holds {source.field(name).type}; leave it out there"
            )
        if name in counts.values():
            continue
        if name in choices.texts:
            fits.append(TextFit(_bag(place, None, choices.text_width, limit, bags)))
        elif kind == "bag":
            fits.append(_bag(place, counts.get(name), choices.text_width, limit, bags))
        elif kind == "category":
            names_of = CategoryFit(place)
            fits.append(names_of if pa.types.is_dictionary(source.field(name).type) else TextOrNames(names_of))
        else:
            fits.append(NumberFit(place, kind == "vector"))
    return fits


def _bag(place: Place, counts: str | None, width: int, limit: int, bags: int) -> BagFit:
    """What counts words, one of `bags` of the file."""
    return BagFit(place, counts, limit, min(limit // (8 * bags), _MOST_HELD), width)


def _counts(source: Input, kinds: dict[str, Kind]) -> dict[str, str]:
    """Which list column counts the values of which bag."""
    numeric = {name for name in kinds if is_list(kind := source.dataset.schema.field(name).type) and _counting(kind.value_type)}
    pairs = {name: f"{name}_counts" for name, kind in kinds.items() if kind == "bag" and f"{name}_counts" in numeric}
    if "counts" in numeric:
        free = [name for name, kind in kinds.items() if kind == "bag" and name not in (*pairs, *pairs.values(), "counts")]
        if len(free) > 1:
            raise DataError(
                f"{source.text}: column 'counts' may belong to {' or '.join(map(repr, free))}; name it after one of them"
            )
        pairs |= dict.fromkeys(free, "counts")
    return pairs


def _counting(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def batches(source: Input, column: str) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The number of the first row and the columns except the id, the same each time, in small batches as lists may be long."""
    names = [name for name in source.dataset.schema.names if name != column.split(".")[0]]
    first, rows = 0, int(max(min(_BATCH_BYTES / max(source.mean_row_bytes(names), 1.0), _BATCH_ROWS), 1))
    for batch in source.batches({name: ds.field(name) for name in names}, names, rows, _BATCH_BYTES):
        yield first, batch
        first += len(batch)
