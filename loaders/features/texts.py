"""Texts of several words, such as titles: cut into words, which are then a list of words like any other.

A word is a run of letters and digits in lower case (Unicode NFKC). Scripts without spaces between words,
such as Han, Kana and Thai, are cut into characters. Letters: R rows of a batch, F columns that the input column becomes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gcnrec.loaders.features.bag_of_words import BagFit, TfIdf
from gcnrec.loaders.features.categories import CategoryFit, Hashed, MultiHot, OneHot
from gcnrec.loaders.features.values import Place, plain

RULE = "text, "
"""What the rule of a column of texts begins with in `dataset.json`; the rule of its words follows."""
_CHARACTERS = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*"
_BETWEEN = r"[^\p{L}\p{N}\p{M}]+"
SEVERAL = 2.0
"""Words of a text on average, from which on a column of many values holds texts, not names of categories."""


def words_of(column: pa.Array) -> pa.Array:
    """The words of each text (R), as lists of text; null where the text is null."""
    text = pc.utf8_lower(pc.utf8_normalize(plain(column), "NFKC"))
    apart = pc.replace_substring_regex(text, f"({_CHARACTERS})", r" \1 ")
    clean = pc.utf8_trim_whitespace(pc.replace_substring_regex(apart, _BETWEEN, " "))
    lists = pc.split_pattern(clean, " ")
    return pc.if_else(pc.equal(clean, ""), pa.scalar([], lists.type), lists)


def with_words(batch: pa.RecordBatch, name: str) -> pa.RecordBatch:
    """The batch whose column `name` has lists of words in place of texts."""
    place = batch.schema.get_field_index(name)
    words = words_of(batch.column(place))
    return batch.set_column(place, pa.field(name, words.type), words)


@dataclass(slots=True)
class TextOrNames:
    """Gathers what says whether a column of text, not dictionary-encoded, has names of categories or texts of several words.

    A code such as a UUID is one piece, however many runs of letters and digits it has: spaces count, and characters where no
    spaces are usual.
    """

    names: CategoryFit
    texts: int = 0
    pieces: int = 0

    @property
    def place(self) -> Place:
        return self.names.place

    @property
    def nbytes(self) -> int:
        return self.names.nbytes

    @property
    def has_texts(self) -> bool:
        """Whether the column has many values, of `SEVERAL` pieces on average."""
        return self.names.has_many and self.pieces >= SEVERAL * self.texts

    def observe(self, batch: pa.RecordBatch, first: int) -> None:
        self.names.observe(batch, first)
        column = plain(batch.column(self.place.name))
        apart = pc.replace_substring_regex(column, f"({_CHARACTERS})", r" \1 ")
        self.pieces += pc.sum(pc.count_substring_regex(apart, r"\S+")).as_py() or 0
        self.texts += len(column) - column.null_count

    def fitted(self) -> OneHot | Hashed:
        return self.names.fitted()


@dataclass(frozen=True, slots=True)
class Texts:
    """The features of the words of each text."""

    words: MultiHot | TfIdf

    @property
    def name(self) -> str:
        return self.words.name

    @property
    def width(self) -> int:
        return self.words.width

    def encode(self, batch: pa.RecordBatch, first: int, place: Place) -> NDArray[np.float32]:
        return self.words.encode(with_words(batch, self.name), first, place)

    def described(self) -> dict[str, Any]:
        entry = self.words.described()
        return {**entry, "rule": RULE + entry["rule"]}


@dataclass(frozen=True, slots=True)
class TextFit:
    """Counts the words of texts in a bag."""

    bag: BagFit

    @property
    def place(self) -> Place:
        return self.bag.place

    def observe(self, batch: pa.RecordBatch, first: int) -> None:
        self.bag.observe(with_words(batch, self.place.name), first)
