"""`[data]` of the job file: what to ingest."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ModelWrapValidatorHandler, PrivateAttr, model_validator

from gcnrec.config.toml import Section
from gcnrec.config.values import (
    Amount,
    DatasetName,
    Fraction,
    KeyType,
    Moment,
    PathText,
    Positive,
    Seed,
    Size,
    Text,
    Width,
    split_at_commas,
)
from gcnrec.storage.places import ArrowStream, StrPath, neither
from gcnrec.storage.remote.address import refuse_secret

PATHS = ("train", "test", "valid", "item_features", "user_features")
"""Keys that name Parquet. In a program, each may be a table in memory instead."""
IN_MEMORY = "memory://"
"""What the text of such a key begins with where it stands for a table in memory."""


class InMemory:
    """A table that a key of `PATHS` was given, equal to itself alone: tables compare by rows, if at all."""

    def __init__(self, stream: ArrowStream) -> None:
        self.stream = stream


class Data(Section):
    """What to ingest. The keys are the flags of `gcnrec ingest`; a card in `datasets/` uses the same ones.

    In a program, `train`, `test`, `valid`, `item_features` and `user_features` also take tables in memory (`ArrowStream`).
    """

    card: PathText | None = None
    """Path of a card in `datasets/`; relative paths are tried from the job file, then from the working directory."""
    folder: PathText | None = None
    """Where the dataset folder is kept; default `data/<name>-<digest of this section and of the input files>`."""
    name: DatasetName | None = None
    """What the data set is called; default the card's name, or what `train` ends with. Also the first part of the default
    `folder`, which is otherwise the card's or job file's name."""
    digest: Text | None = None
    """The dataset that it must be, as job.toml of a run has it: `digest` of its dataset.json. Any other is refused, unless
    --data names it."""
    train: PathText | None = None
    """Parquet of interactions: a file, folder, glob or URI. A relative path starts at the working directory."""
    test: PathText | None = None
    """Parquet of test interactions, for `split = "given"`."""
    valid: PathText | None = None
    """Parquet of validation interactions. Without it, `valid_size` of train is held out."""
    user: Text | None = None
    """Column of user ids; `a.b` names a struct field."""
    item: Text | None = None
    """Column of item ids."""
    time: Text | None = None
    """Column of times: timestamps, dates, or numbers in `time_unit`."""
    time_unit: Literal["s", "ms", "us", "ns"] = "s"
    """Unit of a numeric time."""
    weight: Text | None = None
    """A column of numbers, or an SQL expression of a row such as `case event when 'buy' then 8 else 1 end`."""
    decay_days: Positive | None = None
    """Days before the newest train interaction after which an interaction weighs half. It needs `time`."""
    weight_log: bool | None = None
    """Whether a pair's weight w becomes log(1 + w), after `duplicates` and `decay_days`, so that large ones do not rule."""
    behaviour: Text | None = None
    """The column that says what a user did with an item, such as view, cart or buy. Rows of all its values become graphs over
    the same users and items."""
    target: Annotated[tuple[Text, ...], BeforeValidator(split_at_commas), Field(min_length=1)] | None = None
    """The values of `behaviour` to predict, such as buy: held-out pairs are of these alone. Text is split at commas."""
    keep_other: bool = False
    """Whether a held-out pair that a split draws keeps its rows of other behaviours in train."""
    rating: Text | None = None
    """Column that `min_rating` and `negative_below` read."""
    min_rating: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """The lowest rating that counts as an interaction."""
    negative_below: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Train rows of a rating below this are negative pairs. Without `min_rating`, the other ratings count as interactions."""
    where: Text | None = None
    """An SQL condition on the input's columns, for example `time >= 1700000000`."""
    where_test: Text | None = None
    """A condition on the files `valid` and `test`. Without it, `where` filters such a file if it has all the columns."""
    duplicates: Literal["latest", "sum"] = "latest"
    """A repeated pair keeps its latest row, or the sum of its weights. Without `weight`, each row counts 1."""
    partition_type: dict[Text, KeyType] | None = None
    """Types of hive partition keys, `key=value` in a path, by name. Ids are text without it; other keys are integers or text."""
    k_core: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Nodes with fewer interactions are dropped, until none is left to drop."""
    split: Literal["given", "random", "leave_last", "temporal", "cold_items"] | None = None
    """How test is held out. Default: `given` with `test`, else `temporal` with `time`, else `random`."""
    valid_size: Fraction = 0.1
    """Share of the train interactions held out for validation (unless `valid` is given)."""
    test_size: Fraction = 0.2
    """Share of the interactions held out for test."""
    warm_size: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    """`cold_items`: share of the other items' interactions that is test as well, and as much again validation."""
    test_from: Moment | None = None
    """`temporal`: interactions at or after this time (a number in `time_unit`, or an ISO date) are the test set."""
    test_until: Moment | None = None
    """`temporal` with `test_from`: interactions from this time on are left out of everything."""
    seed: Seed = 0
    """Seed of the split."""
    repeats: Literal["drop", "keep"] = "drop"
    """Held-out pairs that train also has are dropped, or kept."""
    keep_cold: bool = False
    """Whether held-out nodes without train interactions are kept."""
    item_features: PathText | None = None
    """Parquet of item features, by item id."""
    user_features: PathText | None = None
    """Parquet of user features, by user id."""
    features_text: Annotated[tuple[Text, ...], BeforeValidator(split_at_commas)] | None = None
    """Columns of feature files whose text is cut into words, also where it has few values. Without it, text of many values and
    two words on average is."""
    feature_weights: dict[Text, Amount] | None = None
    """By how much the features of a column are scaled, 1 without; 0 leaves it out."""
    text_width: Width = 256
    """Columns that a feature column of lists of words or numbers becomes where more values occur: its leading singular vectors.
    More keep more of rare words. Finding F of them takes 36 F bytes a word, at most a quarter of `memory_limit`; the rarest words
    are left out where that is less."""
    memory_limit: Size = "2GB"
    """Memory of ingestion, without mapped scratch and the process itself: modules and threads take 150 MB, or 240 MB where
    bags of words need torch."""
    max_id_bytes: Annotated[int, Field(ge=1, le=2**24)] = 4096
    """Bytes that an id may have; a longer one is refused."""
    _tables: dict[str, InMemory] = PrivateAttr(default_factory=dict)

    if TYPE_CHECKING:

        def __init__(
            self, *, train: StrPath | ArrowStream | None = ..., test: StrPath | ArrowStream | None = ...,
            valid: StrPath | ArrowStream | None = ..., item_features: StrPath | ArrowStream | None = ...,
            user_features: StrPath | ArrowStream | None = ..., **others: Any,
        ) -> None: ...  # fmt: skip

    @property
    def tables(self) -> dict[str, InMemory]:
        """The tables in memory, by their keys. Only the object that was made with them has them, and its copies."""
        return self._tables

    @model_validator(mode="wrap")
    @classmethod
    def _with_tables(cls, values: Any, handler: ModelWrapValidatorHandler[Data]) -> Data:
        if not isinstance(values, dict):
            return handler(values)
        given = {key: InMemory(values[key]) for key in PATHS if hasattr(values.get(key), "__arrow_c_stream__")}
        for key in PATHS:
            other = values.get(key)
            # What no TOML file can hold was meant as a table.
            if isinstance(other, (str, os.PathLike)):
                refuse_secret(key, os.fspath(other))
            if key not in given and type(other).__module__ != "builtins" and not isinstance(other, os.PathLike):
                raise ValueError(neither(key, other))
        made = handler({**values, **{key: f"{IN_MEMORY}{key}" for key in given}})
        made._tables.update(given)
        return made

    @model_validator(mode="after")
    def _rules(self) -> Data:
        if self.card:
            return self  # the card brings the rest; both together are checked when it has been read
        if self.min_rating is not None and not self.rating:
            raise ValueError("min_rating needs rating, the column that it looks at")
        if self.negative_below is not None and not self.rating:
            raise ValueError("negative_below needs rating, the column that it looks at")
        if self.rating is not None and self.min_rating is None and self.negative_below is None:
            raise ValueError(
                "rating needs min_rating, the least rating that counts, or negative_below; leave rating out to keep every row"
            )
        if self.min_rating is not None and self.negative_below is not None and self.negative_below > self.min_rating:
            raise ValueError(
                f"negative_below must be at most min_rating, got {self.negative_below:g} and {self.min_rating:g}; lower it"
            )
        if self.behaviour is not None and self.target is None:
            raise ValueError("behaviour needs target, the values of that column to predict, such as target = 'buy'")
        if self.weight is not None and not self.weight.strip():
            raise ValueError("weight is empty; name a column or an expression, or leave it out")
        if self.decay_days is not None and not self.time:
            raise ValueError("decay_days needs time, the column that says how old an interaction is")
        if self.weight_log and not self.weight and self.duplicates != "sum":
            raise ValueError("weight_log needs weight, a column or an expression, or duplicates = 'sum', which counts rows")
        if self.target is not None and self.behaviour is None:
            raise ValueError("target needs behaviour, the column that says what a user did with an item")
        if self.where_test is not None and not (self.test or self.valid):
            raise ValueError("where_test filters the files test and valid, neither is set; use where")
        if self.split == "given" and not self.test:
            raise ValueError("split = 'given' needs test, the file that holds the test interactions")
        if self.test and self.split not in (None, "given"):
            raise ValueError(f"split = '{self.split}' makes its own test set; leave test out, or set split = 'given'")
        if self.test_from is not None and self.split not in (None, "temporal"):
            raise ValueError(f"test_from needs split = 'temporal', got split = '{self.split}'")
        if self.test_until is not None and self.test_from is None:
            raise ValueError("test_until needs test_from, where the test window begins")
        if self.warm_size and self.split != "cold_items":
            raise ValueError(f"warm_size needs split = 'cold_items', got split = '{self.split}'")
        if self.split in ("temporal", "leave_last") and not self.time:
            raise ValueError(f"split = '{self.split}' needs time, the column that orders interactions")
        return self
