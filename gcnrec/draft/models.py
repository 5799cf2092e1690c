"""Which model suits which data: a line for each name of `model.name`, and the order in which to try them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Advice:
    """A model, what it is, and when to choose it. `trained`: in epochs, and not fitted in one go."""

    name: str
    trained: bool
    what: str
    when: str


MODELS = (
    Advice("lightgcn", True, "rows smoothed over the graph", "the first choice for any data, with mixture.with = 'auto'"),
    Advice("mf", True, "rows alone, without the graph", "to see what the graph adds; the fastest step"),
    Advice("ngcf", True, "LightGCN with weights in its layers", "to compare with papers that have it"),
    Advice("graphsage", True, "nodes from features and neighbours", "items or users have features, and new ones need lists"),
    Advice(
        "pinsage", True, "the same on nodes that walks visit most", "as graphsage, where some nodes have very many neighbours"
    ),
    Advice("ease", False, "ridge regression of items on items", "dense data with fewer than 20,000 items"),
    Advice("linkprop", False, "paths of three edges, weighted by degrees", "sparse data of any size"),
    Advice("gfcf", False, "filters on the spectrum of the graph", "as linkprop; model.response = 'plateau' is its better form"),
    Advice("itemknn", False, "items that share users", "lists that are to be explained: because you took this"),
    Advice("contentknn", False, "items with like features", "items have features; the baseline of graphsage"),
    Advice("popularity", False, "what most users take", "the baseline of all; users without any interaction"),
    Advice("pending", False, "met and not taken yet, the newest first", "several behaviours: reminders of views and carts"),
    Advice("targetknn", False, "what users take who met the same items", "several behaviours: which views lead to purchases"),
    Advice(
        "repeat", False, "what the user takes most and lately", "users take the same items again (ingest with --repeats keep)"
    ),
)
"""In the order of `gcnrec models`: trained ones first, from the most to the least common choice."""
ORDER = (
    "Begin with 'gcnrec init DATA', which writes a job with lightgcn in a mixture with closed forms.",
    "Large graphs: model.propagation = 'sampled', as init chooses where exact propagation takes too long or too much memory.",
    "Features, and new items: model.name = 'graphsage', on data ingested with --item-features.",
    "Little memory for embeddings: table.budget = 0.25, a sparse table with lightgcn.",
    "A model of your own: model.name = 'package.module:Class', as docs/extending.md has it.",
    "No training at all: a closed form, by 'gcnrec run JOB.toml --set model.name=linkprop --set mixture.with=[]'.",
    "A run compares closed forms on validation and warns if one is better. 'gcnrec compare RUN OTHER' compares two runs.",
)
