"""The job file: every section typed and validated; an unknown key is an error that names the nearest known one.

`Job.load` reads TOML, applies `key.sub=value` overrides and returns frozen sections. Nothing here reads the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from gcnrec.config.data import Data
from gcnrec.config.toml import Section, read_job, set_key, validated
from gcnrec.config.values import (
    Amount,
    Count,
    EncoderName,
    FolderName,
    Fraction,
    Length,
    LossName,
    MetricKind,
    MetricName,
    OwnSettings,
    PathText,
    PolicyName,
    Positive,
    Seed,
    Size,
    Steps,
    Temperature,
    TrackerName,
    Width,
    Words,
)
from gcnrec.errors import shown
from gcnrec.extensions.load import Own
from gcnrec.extensions.names import ENCODERS, LOSSES, METRICS, POLICIES, TRACKERS, is_own
from gcnrec.storage.places import StrPath, place

_MOST_NEGATIVES = 10**9
"""Of a step."""
_SLOT_COLUMNS = 256
"""Columns of a sparse table, as many as one byte numbers."""
_METRICS = ("recall", "recall_capped", "ndcg", "precision", "hit_rate", "mrr", "map")
"""What may choose the best epoch."""
_OTHER_METRICS = ("recall_tilted", "ndcg_tilted", "novelty", "coverage", "gini", "long_tail", "diversity", "serendipity")
"""What is measured besides."""
_OWN_METRICS = 'table by name of: class of your own as "package.module:Class", or an entry point of gcnrec.metrics'
INDUCTIVE = ("graphsage", "pinsage")
PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "small": {
        "data": {"memory_limit": "512MB"},
        "evaluate": {"memory_limit": "512MB"},
        "run": {"keep_checkpoints": 1},
    },
    "large": {"data": {"memory_limit": "8GB"}, "evaluate": {"memory_limit": "8GB"}},
}
"""`run.preset` -> section -> key -> the size limit that a job has without a value of its own. None changes a number of a run."""
_BY_DATA = {
    "model": ("start_scale",),
    "loss": ("temperature", "negative_weight"),
    "train": ("refit",),
    "evaluate": ("seen",),
}
"""Keys that the data decides where a job leaves them open (`gcnrec.training.open_keys`). "auto" opens one again."""
Partner = Literal["linkprop", "gfcf", "itemknn", "ease", "contentknn", "pending", "targetknn", "repeat"]
"""Closed forms that a mixture may have."""


class Model(Section):
    """Which model, its sizes, where its table starts, and how items are scaled for ranking."""

    name: Literal[
        "lightgcn", "ngcf", "mf", "graphsage", "pinsage",
        "popularity", "itemknn", "ease", "gfcf", "contentknn", "linkprop", "pending", "targetknn", "repeat",
    ] | EncoderName = "lightgcn"  # fmt: skip
    """The model: lightgcn, ngcf, mf, graphsage and pinsage are trained, the others are closed forms. `gcnrec models`
    says which to choose. A class of another package is trained as well: docs/extending.md."""
    settings: OwnSettings | None = None
    """What a model of another package is made of."""
    layers: Annotated[int, Field(ge=0, le=16)] = 1
    """Hops of propagation; mf and `propagation = "none"` have none."""
    width: Width | Literal["auto"] = 64
    """Columns of the table. `auto`: `table.base_width` for a dense table, 256 for a sparse one."""
    propagation: Literal["full", "sampled", "none"] = "full"
    """`full`: exact; `sampled`: neighbourhoods drawn for every batch; `none`: rows alone, which is mf whatever `layers` says.
    Propagating at export what was trained without cost recall on Gowalla (0.152 instead of 0.165 after 6 epochs)."""
    behaviours: Literal["none", "merge", "weighted", "cascade"] | None = None
    """What the model reads of other behaviours than the target. `none`: nothing. `merge`: the edges of all
    behaviours are one graph, and training draws its positives from the target's. lightgcn over the whole graph also knows
    `weighted`: a hop is a mean over behaviours by learnt weights; and `cascade`: behaviours in turn, the target last. Default:
    `merge`."""
    weighted_graph: bool = False
    """lightgcn: propagation weighs edges by the weights of interactions, D^-1/2 W D^-1/2 with D the sums of weights; a pair of
    several behaviours has the sum of theirs. Else weights count in the loss alone."""
    inputs: Literal["features", "rows", "both"] | None = None
    """graphsage, pinsage: what a node starts from. Default: both where there are features, else table rows."""
    feature_dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float32"
    """graphsage, pinsage: how training, exports and new nodes have the features. `int8`: 255 values between the 0.01 % and the
    99.99 % quantile of a column over nodes with train interactions; values beyond take the end. The dataset stays float32."""
    id_dropout: Fraction = 0.3
    """graphsage, pinsage: share of a batch's nodes that are treated as if training had not seen them, so that the model learns to
    embed new nodes: from their features alone, or without features from their neighbours alone."""
    start: Literal["spectral", "normal"] = "spectral"
    """`spectral`: top singular vectors of the normalised interaction matrix; `normal`: N(0, start_scale^2)."""
    start_scale: Positive = 0.1
    """Root mean square of the entries of a freshly started table."""
    feature_scale: Positive | None = None
    """graphsage, pinsage: root mean square of what features of length 1 bring to a node; default `start_scale`. Rows that start
    much smaller let training begin at what content alone knows."""
    popularity: Annotated[float, Field(ge=0.0, le=10.0)] | Literal["auto", "theory", "inner", "cosine"] = "auto"
    """Which export ranks. `theory`: the trained score plus the popularity that the loss takes out of it; a number: so many times
    that popularity; `inner`, `cosine`: that product alone. `auto`: theory, unless validation proves another better."""
    popularity_days: Positive | None = None
    """Half-life of an interaction in the popularity column and in `popularity`, in days before the newest; default: none."""
    unseen_degree: Positive | None = None
    """The degree that an item without train interactions counts as; default exp of the mean log degree of the others."""
    norm_power: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    """Fixes another export: items get the length |e|**norm_power, and the inner product ranks."""
    degree_power: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.0
    """The same export: the length also has the factor degree**degree_power."""
    neighbours: Count | None = None
    """itemknn, contentknn: similar items kept per item, default 200; linkprop, gfcf's plateau: on average, more of popular items,
    default 500."""
    shrink: Amount = 10.0
    """itemknn: added to the denominator of the cosine."""
    regularisation: Positive = 200.0
    """ease: the ridge on the Gram matrix."""
    factors: Width = 256
    """gfcf: singular vectors of the ideal low-pass filter."""
    filter_weight: Amount = 0.3
    """gfcf: weight of the ideal low-pass filter, where the linear one has 1."""
    response: Literal["ideal", "plateau", "polynomial"] = "ideal"
    """gfcf: how a user's history is filtered. `ideal`: eigenvalues weigh the spectrum, the largest once more (Shen et al. 2021).
    `plateau`: its lower half is kept nearly whole (Kim et al. 2025); `factors` then defaults to 512, `filter_weight` to 0.2.
    `polynomial`: the same by `filter_order` rounds of hops, without singular vectors; it needs no fit and ranks slowly."""
    filter_power: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.4
    """gfcf's plateau and polynomial: items enter the filter with degree**-filter_power and leave it with degree**filter_power."""
    filter_order: Annotated[int, Field(ge=1, le=64)] = 8
    """gfcf's polynomial: its degree."""
    source_power: Annotated[float, Field(ge=-2.0, le=2.0)] = 0.9
    """linkprop: an item of the user counts with degree**-source_power."""
    target_power: Annotated[float, Field(ge=-2.0, le=2.0)] = 0.1
    """linkprop: the item that is scored counts with degree**-target_power."""
    user_power: Annotated[float, Field(ge=-2.0, le=2.0)] = 1.0
    """linkprop: a user of both items counts with degree**-user_power."""
    sharpness: Annotated[float, Field(gt=0.0, le=4.0)] = 1.0
    """linkprop: each item's product of these is raised to this power. Above 1, few near items outweigh many far ones."""
    repeat_days: Positive = 60.0
    """repeat: days before the newest interaction after which one counts half."""
    exponents: Literal["given", "auto"] = "given"
    """linkprop as the model: `auto` starts from these four and takes what a small search finds on validation. Random validation
    pairs overrate sharp and local exponents, so `auto` suits splits by time. Elsewhere linkprop keeps the four as given."""

    @model_validator(mode="before")
    @classmethod
    def _sampled_by_default(cls, values: Any) -> Any:
        """graphsage and pinsage know no other propagation, so that it need not be named."""
        if isinstance(values, dict) and values.get("name") in INDUCTIVE:
            return {"propagation": "sampled", **values}
        return values

    @model_validator(mode="before")
    @classmethod
    def _plateau_by_default(cls, values: Any) -> Any:
        """The published sizes of the plateau response are others than gfcf's."""
        if isinstance(values, dict) and values.get("response") == "plateau":
            return {"factors": 512, "filter_weight": 0.2, **values}
        return values

    @property
    def reads_features(self) -> bool:
        """Whether nodes are embedded by their features, as far as the data has any."""
        return self.name in INDUCTIVE and self.inputs != "rows"

    @property
    def needs_codes(self) -> bool:
        """Whether features are stored as codes, whose meaning belongs to the run."""
        return self.reads_features and self.feature_dtype == "int8"

    @property
    def closed_form(self) -> bool:
        """Whether the model is fitted in one go, without a table or epochs."""
        return self.name not in ("lightgcn", "ngcf", "mf", *INDUCTIVE) and not is_own(self.name)

    @property
    def own(self) -> Own | None:
        """The model where it is a class of another package."""
        return Own("model.name", ENCODERS, self.name, self.settings or {}) if is_own(self.name) else None


class Table(Section):
    """How many values the table stores, and where."""

    budget: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Stored values at most `budget * N * base_width`; 1.0 is a dense table."""
    base_width: Width | None = None
    """Width that the budget refers to; default `model.width`, or 64 where that is "auto"."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """How a sparse table stores its values; a dense one is float32."""
    placement: Literal["device", "host", "disk"] = "host"
    """Where rows, state and features lie. `host`: RAM, which a GPU reads in place; `device`: all of them in the GPU's memory too,
    read from there; `disk`: files in the run folder that are mapped, for tables larger than RAM."""
    cache_bytes: Annotated[int, Field(ge=0, le=10**18)] = 0
    """Device memory for the rows, state and features of the most popular users and items, which then cross no bus; a CPU
    ignores it."""


class Sampler(Section):
    """Which negatives a positive is compared with, and how many neighbours a node draws."""

    fanouts: Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(max_length=16)] | None = None
    """Neighbours that a node draws in each hop of `sampled` propagation, the batch's own hop first; default 10 in each of
    `model.layers`."""
    neighbours: Literal["uniform", "weighted"] = "uniform"
    """`weighted`: neighbours are drawn in proportion to the weights of interactions, with replacement (30 bytes an edge).
    lightgcn corrects its sums, which are then right on average; graphsage's means are weighted, also in exports."""
    respect_time: bool | None = None
    """Whether a training pair sees older interactions alone, in every hop (20 bytes an edge); the export sees all. Default: no.
    For lightgcn and graphsage with `propagation = "sampled"`, on the CPU."""
    walks: Annotated[int, Field(ge=1, le=1000)] = 50
    """pinsage: random walks from a node; the nodes that they visit most are its neighbours."""
    walk_length: Annotated[int, Field(ge=1, le=100)] = 2
    """pinsage: visits of a walk."""
    restart: Fraction = 0.5
    """pinsage: how likely a walk starts again from its node before each visit but the first."""
    negatives: Literal["in_batch", "uniform", "popularity"] = "in_batch"
    """Where negatives come from: the other positives of the batch, uniform draws, or draws by popularity."""
    num_negatives: Annotated[int, Field(ge=1, le=10**4)] = 1
    """Negatives per positive for `uniform` and `popularity`; `in_batch` uses the other positives of the batch."""
    popularity_power: Annotated[float, Field(ge=0.0, le=4.0)] = 0.75
    """`negatives = "popularity"`: an item is drawn in proportion to its train degree to this power."""
    exclude_seen: bool = False
    """Redraw a sampled negative that the user has in train."""
    exclude_positives: bool = False
    """graphsage: leave the batch's own interactions out of its neighbourhoods. Else a user is recognised by the very item that it
    is to be matched with, and learns less of what else it would like; the cost is a batch whose users know one item less."""
    fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the interactions that an epoch trains on, a fresh random subset each (RS2: Okanovic et al. 2024)."""


class Loss(Section):
    """What a step minimises."""

    name: Literal["bpr", "softmax", "bsl", "directau"] | LossName = "softmax"
    """What a step minimises: softmax, bpr, bsl, directau, or a class of another package (docs/extending.md)."""
    settings: OwnSettings | None = None
    """What a loss of another package is made of."""
    score: Literal["cosine", "inner"] = "cosine"
    """Score used in training; `model.popularity` decides which one ranks. Default `inner` for bpr."""
    temperature: Temperature = 0.12
    """What cosines are divided by in softmax and bsl. Left open, or "auto", the data decides it."""
    positive_temperature: Temperature | None = None
    """bsl: temperature of the positive part; default `temperature`."""
    logq: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """softmax: how much of log q, a negative's sampling probability, is subtracted from the logits: 1 corrects the sampling
    fully (Bengio & Senecal 2008; Yi et al. 2019), 0 leaves the model to learn what popularity does not explain."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """softmax with in-batch negatives: what its matrix products are computed in. bfloat16 is several times faster on processors
    that have instructions for it, and about ten times slower on others."""
    l2: Amount = 1e-5
    """Half squared norm of the batch's table rows, per positive (LightGCN's rule: layer 0 only)."""
    negative_weight: Amount | None = None
    """softmax, bsl, bpr: weight of an item that the user rated low among a positive's negatives, against all others together; 0
    draws none. Default: 0.03 where the data has negative pairs."""
    uniformity: Amount = 1.0
    """directau: weight of the uniformity term."""

    @property
    def own(self) -> Own | None:
        """The loss where it is a class of another package."""
        return Own("loss.name", LOSSES, self.name, self.settings or {}) if is_own(self.name) else None


class Optimizer(Section):
    """The update rule of the table rows, and the learning rate over a run."""

    rule: Literal["sgd", "adagrad_row", "adam", "adam_row", "adam_dense"] = "adam_dense"
    """How rows change by their gradients. Default: `adam` where propagation is sampled; there, `adam_dense` catches up rows."""
    learning_rate: Annotated[float, Field(gt=0.0, le=1e38)] = 1e-3
    """Step size of the table rows."""
    beta1: Fraction = 0.9
    """adam: decay of the mean gradient."""
    beta2: Fraction = 0.999
    """adam: decay of the mean squared gradient."""
    epsilon: Positive = 1e-8
    """adam, adagrad_row: a term that the denominator gets."""
    layer_rate: Positive = 1.0
    """Learning rate of the layers, as a share of the rate of the rows; a smaller share overfits features less."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate over `train.epochs`: constant, or falling to `final_rate` of itself."""
    final_rate: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """`linear`, `cosine`: the last learning rate, as a share of `learning_rate`."""
    warmup_steps: Annotated[int, Field(ge=0, le=10**12)] = 0
    """Steps in which the learning rate rises to `learning_rate`."""


class Sparsity(Section):
    """How the positions of stored values are chosen."""

    policy: Literal["none", "static", "set", "rigl", "dsl", "sparserec", "nm", "gradual", "dynamic"] | PolicyName = "none"
    """How positions change in training; `table.budget` below 1 has dynamic by default. A class of another package may say it
    (docs/extending.md)."""
    settings: OwnSettings | None = None
    """What a policy of another package is made of."""
    first: Literal["random", "largest"] | None = None
    """The first support: random cells, or the largest entries of every row of the start; default what the policy does."""
    interval: Annotated[float, Field(gt=0.0, le=1e6)] = 1.0
    """Epochs between explorations; a part of one is allowed."""
    ratio: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """Share of the values that the first exploration exchanges; later ones fewer, as the policy has it. Default: what the
    policy's authors use (dsl 0.5, set, rigl, sparserec and nm 0.3, dynamic 0.1)."""
    stop: Annotated[float, Field(gt=0.0, le=1.0)] = 0.75
    """Share of the training after which the support stays as it is (`dsl` never stops)."""
    batches: Annotated[int, Field(ge=1, le=10**4)] = 8
    """dynamic, sparserec: fresh batches whose gradients choose what grows."""
    degree_power: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.5
    """dynamic: a row gets slots in proportion to degree**degree_power."""
    user_share: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """dynamic: share of the values that user rows get, evenly. Default: 0.15 where propagation brings users the rows of their
    items (with none, recall on validation peaked early on Gowalla), else what `degree_power` gives them."""
    least_slots: Annotated[int, Field(ge=0, le=2**16)] = 4
    """dynamic, sparserec: slots that every row has at least, as far as the budget allows."""

    @property
    def own(self) -> Own | None:
        """The policy where it is a class of another package."""
        return Own("sparsity.policy", POLICIES, self.policy, self.settings or {}) if is_own(self.policy) else None


class Train(Section):
    """Length of a run, its seed, device and threads, and what it starts from."""

    epochs: Count = 30
    """Epochs at most; validation may stop earlier."""
    batch_size: Annotated[int, Field(ge=1, le=2**24)] = 2048
    """Positives of a step."""
    seed: Seed = 0
    """Seed of the start, the batches and the draws."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: a GPU that can train the job (`sampled` or no propagation), else the CPU."""
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    """CPU threads; default all that the process may use. Results are equal for equal numbers of threads."""
    parts: Annotated[int, Field(ge=1, le=64), Words("whole number, 1, 2, 4, 8, 16, 32 or 64")] | None = None
    """Parts of every batch, a power of two: users and items by the remainder of their number. The numbers of a run follow from
    the parts, whatever number of workers shares them (`--workers`). Default: as many as there are workers at the start.
    lightgcn with `propagation = "full"` has no parts: its workers share the columns of the table."""
    transfer_blocks: Annotated[int, Field(ge=1, le=2**16)] | None = None
    """Blocks of the kernels that move rows between host memory and a GPU; default what is enough on this machine, measured once
    and remembered. More take multiprocessors from training; results are the same."""
    loss_limit: Amount = 3.0
    """A loss explodes, which ends the run, when its mean over 32 steps is above the first epoch's lowest by so many times that
    lowest, the first epoch's fall or 0.5, whichever is most; 0 never ends it."""
    refit: Literal[False, "train+valid"] | None = None
    """After validation chose the epochs, train again on train+valid for that many. Default: for splits by time (`temporal`,
    `leave_last`), whose validation pairs are the newest and matter most; not for others. Validation cannot measure a refit."""
    init_from: PathText | None = None
    """An earlier run folder: rows with the same original id start from its table."""

    @field_validator("parts")
    @classmethod
    def _power_of_two(cls, parts: int | None) -> int | None:
        if parts is not None and parts & (parts - 1):
            raise ValueError(f"must be 1, 2, 4, 8, 16, 32 or 64, got {parts}")
        return parts


class Export(Section):
    """How a finished run has its embeddings."""

    dtype: Literal["float32", "float16"] = "float32"
    """Type of the numbers in `embeddings/`. `float16`: half the disk; each is rounded once, from float32, and ranking computes in
    float32 from what was stored. Numbers beyond 65,504 are refused."""


class Mixture(Section):
    """Closed forms that rank together with the trained model: a weighted sum of probabilities (`gcnrec.closed_forms.mixture`)."""

    partners: Literal["auto"] | tuple[Partner, ...] = Field(default=(), alias="with")
    """Closed forms by name, with their keys of `[model]`, gfcf as its plateau where `model.response` is "ideal". `auto`: the
    ones of linkprop, gfcf, itemknn and, below 20,000 items, ease, that improve validation. The key is `with`."""
    weights: Literal["auto"] | Annotated[tuple[Amount, ...], Field(max_length=6)] = "auto"
    """Weight of the trained model, then one for each partner (default 1). `auto`: each of 0.25, 0.5, 1 and 2 in turn, the best on
    validation; the first partner's stays 1."""

    @field_validator("partners", "weights", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, (int, float)) or (isinstance(value, str) and value != "auto") else value

    @field_validator("partners", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        known = ("auto", *get_args(Partner))
        if isinstance(value, str) and value not in known:
            raise ValueError(f"must be {', '.join(map(repr, known))}, a list of closed forms, or [] for none, got {shown(value)}")
        return value

    @model_serializer(mode="wrap")
    def _as_written(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"with" if key == "partners" else key: value for key, value in plain(self).items()}

    @model_validator(mode="after")
    def _rules(self) -> Mixture:
        if self.partners != "auto" and len(set(self.partners)) < len(self.partners):
            raise ValueError(f"with must name each closed form once, got {shown(list(self.partners))}")
        if self.weights == "auto":
            return self
        if not self.partners or self.partners == "auto":
            raise ValueError(f"weights = {list(self.weights)} needs with, the names of the closed forms that they weigh")
        if len(self.weights) not in (1, 1 + len(self.partners)) or not any(self.weights):
            raise ValueError(
                f"weights must be that of the trained model, or it and one for each of {len(self.partners)} partners, and not "
                f"all 0, got {list(self.weights)}"
            )
        return self


class Evaluate(Section):
    """What is measured on the validation and test splits, and when training stops."""

    metric: Annotated[
        str,
        Field(pattern=r"^[a-z][a-z0-9_]{0,39}@[1-9][0-9]{0,8}$"),
        Words(f"{', '.join(_METRICS[:-1])} or {_METRICS[-1]}, or a name of own_metrics, with a length such as @20"),
    ] = "recall@20"
    """Chooses the best epoch on the validation split, the higher the better."""
    own_metrics: Annotated[dict[MetricKind, MetricName], Field(max_length=20), Words(_OWN_METRICS)] | None = None
    """Metrics of other packages by the name that this job gives them, measured at each of `k` on validation and test."""
    own_settings: Annotated[dict[str, OwnSettings], Words("table of settings by name of own_metrics")] | None = None
    """What each of `own_metrics` is made of, by its name."""
    k: Annotated[tuple[Length, ...], Field(min_length=1, max_length=100)] = (10, 20, 50)
    """Lengths of the lists that are judged."""
    every: Count = 1
    """Epochs between validations."""
    patience: Annotated[int, Field(ge=0, le=10**6)] = 5
    """Validations without a better `metric` before training stops; 0 never stops."""
    users: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Users that validation and test rank for: as many, drawn at random from those with held-out pairs, the same for each run on
    the data. Default: all."""
    bootstrap: Annotated[int, Field(ge=0, le=10**5)] = 1000
    """Resamples of users for the intervals; 0 leaves them out."""
    seen: Literal["target", "all", "none"] | None = None
    """What is left out of the lists that validation and test judge. `target`: items of train, and for test also of validation;
    `none`: nothing. `all`: items of all behaviours, and held-out pairs among these are not judged. Data with one behaviour has
    `all` for `target`. Default: `none` for data ingested with `repeats = "keep"`, else `target`."""
    baselines: (
        tuple[Literal["popularity", "itemknn", "ease", "gfcf", "contentknn", "linkprop", "pending", "targetknn", "repeat"], ...]
        | Literal["auto"]
    ) = "auto"
    """Closed-form models to compare with a trained one on validation, user by user; a better one gives a warning. `auto`: each
    that takes at most a tenth of the fit's time. Named ones have no limit and are evaluated on test as well."""
    tilt: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    """`recall_tilted` and `ndcg_tilted` weight a held-out pair by its item's train degree to this power: a hold-out with more
    popular pairs (`gcnrec.ranking.pairs.tilt`). 0 leaves them out."""
    memory_limit: Size = "2GB"
    """Memory of `evaluate` and `recommend`, without mapped files and the process itself, 240 MB with torch and its threads."""

    @property
    def own(self) -> list[Own]:
        """The metrics that are classes of other packages."""
        settings = self.own_settings or {}
        named = (self.own_metrics or {}).items()
        return [Own(f"evaluate.own_metrics.{name}", METRICS, found, settings.get(name, {})) for name, found in named]

    @model_validator(mode="after")
    def _own_rules(self) -> Evaluate:
        """Names are clear: none of ours for a class of another package, and `metric` is one that is measured."""
        own = self.own_metrics or {}
        if taken := sorted(own.keys() & {*_METRICS, *_OTHER_METRICS}):
            raise ValueError(f"own_metrics must not name {taken[0]!r}, which gcnrec measures itself; choose another name")
        if unknown := sorted((self.own_settings or {}).keys() - own.keys()):
            raise ValueError(
                f"own_settings must be by names of own_metrics ({', '.join(own) or 'none'}), got {shown(unknown[0])}"
            )
        kind = self.metric.partition("@")[0]
        if kind not in (*_METRICS, *own):
            known = ", ".join((*_METRICS, *own))
            raise ValueError(f"metric must be one of {known}, with a length such as @20, got {shown(self.metric)}")
        return self

    @model_validator(mode="after")
    def _rules(self) -> Evaluate:
        if self.baselines != "auto" and len(set(self.baselines)) < len(self.baselines):
            raise ValueError(f"baselines must name each closed form once, got {shown(list(self.baselines))}")
        return self


class Run(Section):
    """The run folder: its name, its checkpoints, and the trackers of its epochs."""

    name: FolderName | None = None
    """Name of the run folder under `runs/`: one folder, without / and without . or - first. Default the job file's name."""
    preset: Literal["small", "large"] | None = None
    """Size limits by one name. `small`: 512MB for `data.memory_limit` and for `evaluate.memory_limit`, and one checkpoint is
    kept. `large`: 8GB for both. A value of the job wins. No number of a run depends on it."""
    checkpoint_every: Count = 1
    """Epochs between checkpoints; the last epoch ends with one in any case."""
    checkpoint_steps: Steps | None = None
    """Steps between checkpoints within epochs; default: `checkpoint_minutes` alone decides."""
    checkpoint_minutes: Annotated[float, Field(gt=0.0, le=1e6)] = 10.0
    """Minutes without a checkpoint after which there is one, wherever the epoch is."""
    keep_checkpoints: Count = 2
    """Newest checkpoints to keep for a resume: where one is damaged, the previous one is used."""
    timeout_minutes: Annotated[float, Field(gt=0.0, le=1e5)] = 10.0
    """Of several workers: how long one waits for another that answers no more, before the run ends and names it."""
    tensorboard: bool = False
    """Scalars of every epoch and test metrics for TensorBoard, in the run folder's `tensorboard`."""
    mlflow: Annotated[PathText, Field(min_length=1)] | None = None
    """Settings, metrics and report also go to MLflow: the URI of a server or store, or a folder for its database, `mlflow.db`."""
    tracker: TrackerName | None = None
    """They also go to a tracker of another package (docs/extending.md)."""
    tracker_settings: OwnSettings | None = None
    """What that tracker is made of."""

    @property
    def own(self) -> Own | None:
        """The tracker of another package."""
        return None if self.tracker is None else Own("run.tracker", TRACKERS, self.tracker, self.tracker_settings or {})


class Job(Section):
    """A whole job file: one section for each table of it."""

    data: Data = Data()
    model: Model = Model()
    table: Table = Table()
    sampler: Sampler = Sampler()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    sparsity: Sparsity = Sparsity()
    train: Train = Train()
    export: Export = Export()
    mixture: Mixture = Mixture()
    evaluate: Evaluate = Evaluate()
    run: Run = Run()

    @property
    def own(self) -> list[Own]:
        """The classes of other packages that the job names."""
        return [*(own for own in (self.model.own, self.loss.own, self.sparsity.own, self.run.own) if own), *self.evaluate.own]

    @property
    def trains_on_gpu(self) -> bool:
        """Whether a GPU can train it: steps that touch a batch's rows and no others."""
        by_samples = self.model.name in ("lightgcn", "mf", *INDUCTIVE) and self.model.propagation != "full"
        return by_samples and self.optimizer.rule != "adam_dense" and not self.sampler.respect_time

    @property
    def is_sparse(self) -> bool:
        """Whether the table stores slots instead of whole rows."""
        return self.table.budget < 1.0

    @property
    def base_width(self) -> int:
        """The width that the budget refers to."""
        if self.table.base_width is not None:
            return self.table.base_width
        return 64 if self.model.width == "auto" else self.model.width

    @property
    def table_width(self) -> int:
        """Columns of the table: `model.width`, where "auto" is the base width for a dense table and 256 for a sparse one.

        Column numbers of one byte reach 256. On Gowalla, 256 is better than 128 at equal values at budgets of 0.5 and 0.25, as
        Sparse-IFT reports for wider layers (Thangarasa et al. 2024).
        """
        if self.model.width != "auto":
            return self.model.width
        dense_at_first = not self.is_sparse or self.sparsity.policy == "gradual"
        return self.base_width if dense_at_first else _SLOT_COLUMNS

    @model_validator(mode="before")
    @classmethod
    def _fitting_defaults(cls, values: Any) -> Any:
        """Defaults that depend on other keys."""
        if not isinstance(values, dict):
            return values
        sections = {
            name: part.model_dump(exclude_unset=True) if isinstance(part, Section) else part for name, part in values.items()
        }
        if not all(isinstance(part, dict) for part in sections.values()):
            return values
        for name, keys in _BY_DATA.items():
            if name in sections:
                sections[name] = {key: value for key, value in sections[name].items() if not (key in keys and value == "auto")}
        model, loss, table, run = (sections.get(name, {}) for name in ("model", "loss", "table", "run"))
        preset = PRESETS.get(str(run.get("preset")), {})
        fitting = {name: dict(limits) for name, limits in preset.items()}
        if model.get("propagation") == "sampled" or model.get("name") in INDUCTIVE:
            fitting["optimizer"] = {"rule": "adam"}
        if loss.get("name") == "bpr":
            fitting["sampler"] = {"negatives": "uniform"}
            fitting["loss"] = {"score": "inner"}  # a cosine has too small a range at bpr's temperature of 1
        if isinstance(table.get("budget"), float) and table["budget"] < 1.0:
            fitting["sparsity"] = {"policy": "dynamic"}
        return {**sections, **{name: {**part, **sections.get(name, {})} for name, part in fitting.items()}}

    @model_validator(mode="after")
    def _rules(self) -> Job:
        problem = _impossible(self)
        if problem:
            raise ValueError(problem)
        return self

    @classmethod
    def load(cls, path: StrPath, overrides: list[str] | None = None) -> Job:
        """Read a TOML job file and apply `section.key=value` overrides (values in TOML syntax, or bare text).

        Raises UsageError naming the key, what came and the nearest known name.
        """
        return cls.parse(read_job(place(path)), overrides or [], str(path))

    @classmethod
    def parse(cls, sections: dict[str, Any], overrides: list[str], where: str) -> Job:
        """A job from sections read elsewhere, with `overrides` as in `load`; `where` names the source in a UsageError."""
        for override in overrides:
            set_key(sections, override)
        return validated(cls, sections, where)


def _impossible(job: Job) -> str | None:
    """The reason why two settings contradict each other, or None."""
    if job.loss.name in ("bpr",) and job.sampler.negatives == "in_batch":
        return "loss.name = 'bpr' needs sampler.negatives = 'uniform' or 'popularity', got 'in_batch'"
    if job.loss.name == "directau" and job.loss.negative_weight:
        return (
            "loss.name = 'directau' compares with no negatives, so that loss.negative_weight = "
            f"{job.loss.negative_weight:g} cannot apply; set it to 0, or choose another loss"
        )
    if job.model.name == "mf" and job.model.propagation == "sampled":
        return "model.name = 'mf' has no propagation; set model.propagation = 'none'"
    if (job.model.name == "ngcf" or job.model.own) and job.model.propagation != "full":
        return f"model.name = '{job.model.name}' is trained with model.propagation = 'full', got '{job.model.propagation}'"
    if job.model.name in INDUCTIVE and job.model.propagation != "sampled":
        return (
            f"model.name = '{job.model.name}' is trained on sampled neighbourhoods; set model.propagation = 'sampled', "
            f"got '{job.model.propagation}'"
        )
    if job.model.closed_form and (job.run.tensorboard or job.run.mlflow or job.run.tracker):
        return f"trackers of [run] follow epochs, and model.name = '{job.model.name}' has none; leave them out"
    if job.model.closed_form and job.mixture.partners:
        return f"[mixture] adds closed forms to a trained model, and model.name = '{job.model.name}' is none; leave it out"
    if job.sampler.neighbours == "weighted" and (job.model.propagation != "sampled" or job.model.name == "pinsage"):
        return (
            "sampler.neighbours = 'weighted' draws for lightgcn or graphsage with model.propagation = 'sampled', "
            f"got '{job.model.name}' with '{job.model.propagation}'"
        )
    if job.sampler.respect_time and (problem := _no_past(job)):
        return problem
    if job.sampler.exclude_positives and job.model.name != "graphsage":
        return f"sampler.exclude_positives is for graphsage's neighbourhoods, got model.name = '{job.model.name}'; leave it out"
    if job.model.popularity != "auto" and (job.model.norm_power, job.model.degree_power) != (1.0, 0.0):
        return "model.popularity and model.norm_power or model.degree_power each fix the export; leave one of them out"
    drawn = job.train.batch_size * job.sampler.num_negatives
    if job.sampler.negatives != "in_batch" and drawn > _MOST_NEGATIVES:
        return (
            f"train.batch_size = {job.train.batch_size} with sampler.num_negatives = {job.sampler.num_negatives} draws {drawn:,} "
            f"negatives a step, at most {_MOST_NEGATIVES:,} are possible; lower one of them"
        )
    fanouts = job.sampler.fanouts
    if job.model.propagation == "sampled" and fanouts is not None and len(fanouts) != job.model.layers:
        return f"sampler.fanouts must name a fanout for each of model.layers = {job.model.layers} hops, got {list(fanouts)}"
    if (job.sparsity.policy == "none") != (job.table.budget == 1.0) and not job.model.closed_form:
        return (
            f"table.budget = {job.table.budget} with sparsity.policy = '{job.sparsity.policy}': a budget below 1 needs a "
            'policy that keeps it ("dynamic"), and a policy needs a budget below 1'
        )
    return _impossible_edges(job.model, job.sampler) or _not_yet(job)


def _impossible_edges(model: Model, sampler: Sampler) -> str | None:
    """The same of the keys that say what an edge counts."""
    if model.behaviours in ("weighted", "cascade") and (model.name, model.propagation) != ("lightgcn", "full"):
        return (
            f"model.behaviours = '{model.behaviours}' is for lightgcn with model.propagation = 'full', got "
            f"'{model.name}' with '{model.propagation}'; set model.behaviours = 'merge'"
        )
    if model.behaviours in ("weighted", "cascade") and not model.layers:
        return f"model.behaviours = '{model.behaviours}' needs hops of propagation; set model.layers to 1 or more"
    if model.weighted_graph and (model.name != "lightgcn" or model.behaviours in ("weighted", "cascade")):
        return (
            "model.weighted_graph is for model.name = 'lightgcn' with model.behaviours = 'merge' or 'none', got "
            f"'{model.name}' with '{model.behaviours or 'merge'}'; leave it out"
        )
    if model.weighted_graph and sampler.neighbours == "weighted":
        return "model.weighted_graph draws neighbours by weight itself; leave sampler.neighbours = 'weighted' out"
    return None


def _no_past(job: Job) -> str | None:
    """The reason why a job's pairs cannot see their own past alone, or None."""
    if job.model.propagation != "sampled" or job.model.name == "pinsage":
        return (
            "sampler.respect_time draws for lightgcn or graphsage with model.propagation = 'sampled', "
            f"got '{job.model.name}' with '{job.model.propagation}'; set model.propagation = 'sampled' with one of these, or "
            "leave sampler.respect_time out"
        )
    if job.sampler.neighbours == "weighted" or job.model.weighted_graph:
        key = "model.weighted_graph" if job.model.weighted_graph else "sampler.neighbours = 'weighted'"
        return f"sampler.respect_time draws all neighbours alike, and {key} by weight; leave one of them out"
    if job.sampler.exclude_positives:
        return "sampler.respect_time shows no pair its own interaction already; leave sampler.exclude_positives out"
    return None


def _not_yet(job: Job) -> str | None:
    """A setting that this version knows but cannot do: better refused than silently ignored."""
    if job.table.dtype != "float32" and job.table.budget == 1.0 and not job.model.closed_form:
        return f"table.dtype = '{job.table.dtype}' with table.budget = 1.0: dense tables are float32; set a budget below 1"
    if job.optimizer.rule == "adam_dense" and job.model.propagation == "sampled" and job.is_sparse:
        return (
            "optimizer.rule = 'adam_dense' with model.propagation = 'sampled' catches up whole rows, and table.budget = "
            f"{job.table.budget:g} stores parts of them; use 'adam', or set table.budget to 1.0"
        )
    if job.train.device == "cuda" and job.sampler.respect_time:
        return (
            "train.device = 'cuda' with sampler.respect_time = true: such jobs train on the CPU alone; set train.device = 'cpu'"
        )
    if job.train.device == "cuda" and job.model.own:
        return (
            f"train.device = 'cuda' with model.name = '{job.model.name}': a model of another package computes all rows in each "
            "step, where they lie in host memory; set train.device = 'cpu'"
        )
    if job.train.device == "cuda" and not job.trains_on_gpu:
        return (
            f"train.device = 'cuda' with model.name = '{job.model.name}', model.propagation = '{job.model.propagation}' and "
            f"optimizer.rule = '{job.optimizer.rule}': on a GPU this version trains by samples; "
            "set model.propagation = 'sampled' or 'none' with optimizer.rule = 'adam', or train.device = 'cpu'"
        )
    return None
