"""Settings that were given and change nothing, because another setting leaves what they belong to out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gcnrec.config.data import Data
from gcnrec.config.job import INDUCTIVE, Job


@dataclass(frozen=True, slots=True)
class _Keys:
    """Keys that matter to some jobs only, and to which, in words."""

    names: tuple[str, ...]
    matter: Callable[[Job], bool]
    where: str


def _mixes_directau(job: Job) -> bool:
    """Whether the temperature turns the scores of directau into probabilities of a mixture."""
    return job.loss.name == "directau" and bool(job.mixture.partners)


def _has_layers(job: Job) -> bool:
    """Whether the model has parameters apart from the table's rows, which Adam updates whatever the rule."""
    model = job.model
    return model.name == "ngcf" or model.name in INDUCTIVE or model.behaviours == "weighted" or model.own is not None


def _counts_popularity(job: Job) -> bool:
    """Whether an export adds the popularity column, or a baseline counts what it counts."""
    model, loss, negatives = job.model, job.loss, job.sampler.negatives
    adds = loss.name != "directau" and negatives != "uniform" and not (loss.name == "softmax" and loss.logq == 1.0)
    is_open = model.popularity not in ("inner", "cosine", 0.0) and (model.norm_power, model.degree_power) == (1.0, 0.0)
    return (adds and is_open) or "popularity" in job.evaluate.baselines or job.evaluate.baselines == "auto"


_KEYS = (
    _Keys(("model.layers",), lambda job: job.model.name != "mf" and job.model.propagation != "none" and not job.model.own,
          "a model of gcnrec propagates"),
    _Keys(("model.settings",), lambda job: job.model.own is not None, "model.name is a class of another package"),
    _Keys(("loss.settings",), lambda job: job.loss.own is not None, "loss.name is a class of another package"),
    _Keys(("sparsity.settings",), lambda job: job.sparsity.own is not None, "sparsity.policy is a class of another package"),
    _Keys(("run.tracker_settings",), lambda job: job.run.tracker is not None, "run.tracker names a class"),
    _Keys(("model.inputs", "model.id_dropout"), lambda job: job.model.name in INDUCTIVE, "model.name = 'graphsage' or 'pinsage'"),
    _Keys(("model.feature_dtype", "model.feature_scale"), lambda job: job.model.reads_features,
          "model.name = 'graphsage' or 'pinsage' reads features"),
    _Keys(("model.popularity_days",), _counts_popularity, "the export has a popularity column, or popularity is a baseline"),
    _Keys(("model.exponents",), lambda job: "linkprop" in job.mixture.partners or job.mixture.partners == "auto",
          "mixture.with names linkprop"),
    _Keys(("model.weighted_graph",), lambda job: job.model.propagation != "none", "there is propagation"),
    _Keys(("sampler.fanouts",), lambda job: job.model.propagation == "sampled", "model.propagation = 'sampled'"),
    _Keys(("sampler.walks", "sampler.walk_length", "sampler.restart"), lambda job: job.model.name == "pinsage",
          "model.name = 'pinsage'"),
    _Keys(("sampler.num_negatives", "sampler.exclude_seen"), lambda job: job.sampler.negatives != "in_batch",
          "sampler.negatives = 'uniform' or 'popularity'"),
    _Keys(("sampler.popularity_power",), lambda job: job.sampler.negatives == "popularity", "sampler.negatives = 'popularity'"),
    _Keys(("loss.temperature",), lambda job: job.loss.name in ("softmax", "bsl") or _mixes_directau(job),
          "loss.name = 'softmax' or 'bsl', or a mixture has loss.name = 'directau'"),
    _Keys(("loss.positive_temperature",), lambda job: job.loss.name == "bsl", "loss.name = 'bsl'"),
    _Keys(("loss.logq",), lambda job: job.loss.name == "softmax", "loss.name = 'softmax'"),
    _Keys(("loss.precision",), lambda job: job.loss.name == "softmax" and job.sampler.negatives == "in_batch",
          "loss.name = 'softmax' with sampler.negatives = 'in_batch'"),
    _Keys(("loss.score",), lambda job: job.loss.name != "directau", "another loss than directau"),
    _Keys(("loss.uniformity",), lambda job: job.loss.name == "directau", "loss.name = 'directau'"),
    _Keys(("sparsity.first",), lambda job: job.sparsity.policy not in ("none", "gradual"), "the first support is sparse"),
    _Keys(("sparsity.interval",), lambda job: job.sparsity.policy not in ("none", "static"), "policies that change the support"),
    _Keys(("sparsity.ratio",),
          lambda job: job.sparsity.policy not in ("none", "static", "gradual") and not job.sparsity.own,
          "policies of gcnrec exchange"),
    _Keys(("sparsity.stop",), lambda job: job.sparsity.policy not in ("none", "static", "gradual", "dsl"), "policies that stop"),
    _Keys(("sparsity.batches", "sparsity.least_slots"), lambda job: job.sparsity.policy in ("dynamic", "sparserec"),
          "sparsity.policy = 'dynamic' or 'sparserec'"),
    _Keys(("sparsity.degree_power", "sparsity.user_share"), lambda job: job.sparsity.policy == "dynamic",
          "sparsity.policy = 'dynamic'"),
    _Keys(("optimizer.beta1", "optimizer.beta2"),
          lambda job: job.optimizer.rule not in ("sgd", "adagrad_row") or _has_layers(job),
          "optimizer.rule = 'adam', 'adam_row' or 'adam_dense', or the model has layers"),
    _Keys(("optimizer.epsilon",), lambda job: job.optimizer.rule != "sgd" or _has_layers(job),
          "optimizer.rule is another than 'sgd', or the model has layers"),
    _Keys(("optimizer.final_rate",), lambda job: job.optimizer.schedule != "constant",
          "optimizer.schedule = 'linear' or 'cosine'"),
    _Keys(("optimizer.layer_rate",), _has_layers,
          "model.name = 'ngcf', 'graphsage', 'pinsage' or a class of your own, or model.behaviours = 'weighted'"),
)  # fmt: skip
_ON_A_CPU = (
    _Keys(("table.placement",), lambda job: job.table.placement == "disk", "a GPU trains; a CPU knows 'host' and 'disk'"),
    _Keys(("table.cache_bytes", "train.transfer_blocks"), lambda job: False, "a GPU trains"),
)
_WITHOUT_FEATURES = (
    _Keys(("model.feature_dtype", "model.feature_scale"), lambda job: not job.model.reads_features,  # named above
          "the dataset has features; ingest with --item-features or --user-features"),
)  # fmt: skip
_ON_A_GPU = (_Keys(("table.cache_bytes",), lambda job: job.table.placement != "device", "table.placement = 'host' or 'disk'"),)


def unused_settings(job: Job, on_gpu: bool, has_features: bool) -> list[str]:
    """A sentence for each key that is not at its default and changes nothing; none for closed-form models.

    Closed-form models run as baselines from the job files of other models, whose settings are not meant for them.
    `on_gpu`: whether a GPU trains the job. `has_features`: whether the dataset has features of users or items.
    """
    if job.model.closed_form:
        return []
    sentences = []
    for keys in (*_KEYS, *(() if has_features else _WITHOUT_FEATURES), *(_ON_A_GPU if on_gpu else _ON_A_CPU)):
        for name in keys.names:
            section, _, key = name.partition(".")
            part = getattr(job, section)
            value = getattr(part, key)
            if value != type(part).model_fields[key].default and not keys.matter(job):
                sentences.append(f"{name} = {value!r} changes nothing in this job; it matters where {keys.where}")
    return sentences


def unused_data_settings(data: Data, split: str) -> list[str]:
    """A sentence for each key of ingestion that is not at its default and changes nothing; `split`: the split in use."""
    has_test_size = split not in ("given", "leave_last") and data.test_from is None
    has_features = bool(data.item_features or data.user_features), "item_features or user_features names a file"
    matters = {
        "test_size": (has_test_size, "a split draws the test set, without test, test_from or split = 'leave_last'"),
        "valid_size": (not data.valid, "valid names no file"),
        "time_unit": (bool(data.time), "time names a column"),
        "keep_other": (
            bool(data.behaviour) and split not in ("temporal", "leave_last"),
            "behaviour names a column, and a split draws pairs",
        ),
        **dict.fromkeys(("features_text", "feature_weights"), has_features),
        "text_width": has_features,
    }
    return [
        f"{name} = {getattr(data, name)!r} changes nothing here; it matters where {where}"
        for name, (is_used, where) in matters.items()
        if not is_used and getattr(data, name) != Data.model_fields[name].default
    ]
