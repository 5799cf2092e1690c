"""Which mixture ranks: partners fitted on train, weights chosen on validation with the export of the best epoch.

Fits for the choice lie in `mixture/fit` of the run folder until the run is finished. Each step leaves a whole file or none, so
that a resumed run continues after the last of them.
Letters: H users of validation, B of them at a time, T temperatures, I items.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gcnrec import config
from gcnrec.closed_forms import closed_form, ease, mixing
from gcnrec.closed_forms.mixture import Part, Shares, Softmax
from gcnrec.closed_forms.mixture_files import FILE, Mixture, mixture_scorer, partner_path
from gcnrec.config import Loss, Model
from gcnrec.errors import DeviceError, UsageError
from gcnrec.graph import BipartiteGraph, Csr
from gcnrec.loaders.schema import Dataset
from gcnrec.ranking.evaluate import held_out_of
from gcnrec.ranking.export_rules import Exported
from gcnrec.ranking.metrics import per_user_with, split_name
from gcnrec.ranking.scorer import EmbeddingScorer, Scorer
from gcnrec.ranking.seen import may_repeat, seen_in_validation, seen_rule, validation_pairs
from gcnrec.runs.documents import read_json
from gcnrec.runs.events import append_event, read_lines
from gcnrec.runs.manifest import check, record
from gcnrec.storage.documents import json_text
from gcnrec.storage.files import atomic_file, sync
from gcnrec.system.limits import read_limits
from gcnrec.training.baselines import fit_seconds
from gcnrec.training.costs.baselines import Load, bytes_of, seconds_of
from gcnrec.training.work import Work

AUTO = ("linkprop", "gfcf", "itemknn", "ease")
"""What `mixture.with = "auto"` chooses from; of data with several behaviours also from `closed_form.OF_BEHAVIOURS`, and where
lists may hold repeats from `closed_form.OF_REPEATS`."""
PLATEAU = {"response": "plateau", "factors": 512, "filter_weight": 0.2}
LEAST_SECONDS = 600.0
"""A partner that `auto` tries may take so long, or as long as the training."""
_TEMPERATURES = tuple(2.0**power for power in range(-6, 7))
_LIKELIHOOD_USERS, _LIKELIHOOD_BLOCK = 1024, 64
"""Users that a temperature is fitted to, and how many of them at a time."""


def refuse_impossible_mixture(settings: config.Mixture, exponents: object, dataset: Dataset) -> None:
    """UsageError, before hours of training, for a mixture that the data does not allow; `exponents`: as in `[model]`.

    A choice needs validation, contentknn features of items, and ease few items.
    """
    names = () if settings.partners == "auto" else settings.partners
    if not settings.partners:
        return
    open_keys = (settings.partners, settings.weights, exponents if "linkprop" in names else "given")
    if "auto" in open_keys and not len(dataset.valid):
        raise UsageError(
            f"[mixture] is chosen on validation, and {dataset.folder} has none; ingest with --valid-size, or name mixture.with "
            "and give mixture.weights as numbers"
        )
    if "contentknn" in names and dataset.item_features is None:
        raise UsageError(f"mixture.with names contentknn, and {dataset.folder} has no features of items; leave it out")
    lacking = next((name for name in names if name in closed_form.OF_BEHAVIOURS and not dataset.graph.others), None)
    if lacking is not None:
        raise UsageError(f"mixture.with names {lacking}, and the model reads one behaviour of {dataset.folder}; leave it out")
    if "ease" in names and dataset.graph.num_items >= ease.MAX_ITEMS:
        raise UsageError(
            f"mixture.with names ease, which is for fewer than {ease.MAX_ITEMS:,} items, and {dataset.folder} has "
            f"{dataset.graph.num_items:,}; leave it out"
        )


def choice_bytes(settings: config.Mixture, by: config.Evaluate, dataset: Dataset) -> int:
    """The most bytes that the choice of a mixture by the metric of `by` holds, without its parts."""
    if settings.weights != "auto":
        return 0
    names = _auto_names(by, dataset) if settings.partners == "auto" else settings.partners
    users, k = len(np.unique(dataset.valid.users_E)), split_name(by.metric)[1]
    return mixing.judge_bytes(1 + len(names), users, dataset.graph.num_items, k)


def scorer_of_fit(work: Work, trained: Exported) -> Scorer:
    """Ranks as the fit's best epoch does, whose export is `trained`: in the mixture of the job, where it has one.

    The mixture is chosen here, once in a run, and written.
    """
    if not work.job.mixture.partners:
        return trained.scorer
    path = work.folder / FILE
    if not path.is_file():
        mixture = _chosen(work, trained)
        _note_once(work, _sentence(mixture))
        if not mixture.weight:
            _note_once(work, "the trained model orders ties of the mixture alone; mixture.with=[] ranks by it")
        with atomic_file(path) as part:
            part.write_text(json_text(mixture.saved()), encoding="utf-8")
            record(work.folder, {path: part})
    check(work.folder, [path])
    mixture = Mixture.of(read_json(path), path)
    return mixture_scorer(mixture, trained.scorer, {name: _fitted(work, name) for name in mixture.partners})


def fit_partners(work: Work, graph: BipartiteGraph) -> list[Path]:
    """Leave the tensors of the mixture's partners, fitted on `graph`, what the final model was trained on: their files."""
    check(work.folder, [work.folder / FILE])
    partners = Mixture.of(read_json(work.folder / FILE), work.folder / FILE).partners
    for name in partners:
        target, tried = partner_path(work.folder, name), partner_path(work.folder, f"fit/{name}")
        if not target.is_file() and (work.job.train.refit or not tried.is_file()):
            _fit(work, name, graph, target)
        elif not target.is_file():
            tried.replace(target)
            sync(target.parent)
    shutil.rmtree(work.folder / "mixture" / ("fit" if partners else ""), ignore_errors=True)
    return [partner_path(work.folder, name) for name in partners]


def _chosen(work: Work, trained: Exported) -> Mixture:
    """Fit the candidates on train and weigh them, on validation where the job leaves that open."""
    job, dataset = work.job, work.dataset
    settings, pairs = job.mixture, validation_pairs(job.evaluate, dataset)
    if settings.weights != "auto":
        held = held_out_of(trained.scorer, pairs).by_user(trained.scorer.num_users) if len(pairs) else None
        weight, *others = settings.weights
        given = dict(zip(settings.partners, others or [1.0] * len(settings.partners), strict=True))
        return Mixture(weight, _temperature(work, trained, held), {name: w for name, w in given.items() if w}, {"by": "the job"})
    held = held_out_of(trained.scorer, pairs).by_user(trained.scorer.num_users)
    temperature = _temperature(work, trained, held)
    partners = _candidates(work, held)
    parts: tuple[Part, ...] = (Softmax(trained.scorer, temperature), *partners.values())
    judge = _judge(work, parts, held)
    found = mixing.chosen(judge, len(parts)) if settings.partners == "auto" else mixing.weighed(judge, len(parts))
    weight, *others = found.weights
    kept = {name: w for name, w in zip(partners, others, strict=True) if w}
    record = {
        "by": "validation", "metric": job.evaluate.metric, "seen": seen_rule(job.evaluate.seen, dataset),
        "users": judge.num_users, "trials": found.trials, "value": found.value,
        "alone": dict(zip(("trained", *partners), found.alone, strict=True)),
    }  # fmt: skip
    return Mixture(weight, temperature, kept, record)


def _judge(work: Work, parts: Sequence[Part], held: Csr) -> mixing.Judge:
    settings = work.job.evaluate
    seen = seen_in_validation(settings, work.dataset)
    judge = mixing.judge_of(parts, held, seen, settings.metric, work.observer)
    return replace(judge, per_user=per_user_with(settings.own))


def _candidates(work: Work, held: Csr) -> dict[str, Shares]:
    """Partners by name, fitted on train and mapped; of `auto` the ones that fit into memory."""
    named = work.job.mixture.partners
    names = _auto_names(work.job.evaluate, work.dataset) if named == "auto" else named
    partners = {}
    for name in names:
        if named == "auto" and (why := _too_dear(name, work, held)):
            _note_once(work, f"{name} left out of the mixture: {why}; name it in mixture.with to have it all the same")
            continue
        try:
            partners[name] = Shares(_fitted(work, name))
        except DeviceError as problem:
            if named != "auto":
                raise
            _note_once(work, f"{name} left out of the mixture: {problem}")
    return partners


def _too_dear(name: str, work: Work, held: Csr) -> str:
    """Why a partner is not tried unless the job names it; empty where it is."""
    load, settings = Load.of(work.dataset.graph.union, mixing.looked_at(held)), partner_settings(work.job.model)
    seconds, most = seconds_of(name, load, settings), max(LEAST_SECONDS, fit_seconds(work.folder))
    size, room = bytes_of(name, load, settings), read_limits().available
    if seconds > most:
        return f"about {seconds:,.0f} s, and at most the training's own time or {most:,.0f} s are spent on one"
    return f"it would hold {size:,} bytes, {room:,} are free" if size > room else ""


def _fitted(work: Work, name: str) -> Scorer:
    """A partner fitted on train, mapped; fitted now unless the run has done it before."""
    path = partner_path(work.folder, f"fit/{name}")
    if not path.is_file():
        _fit(work, name, work.dataset.graph, path)
    check(work.folder, [path])
    return closed_form.load_partner(name, work.dataset.graph, path)


def _auto_names(by: config.Evaluate, dataset: Dataset) -> tuple[str, ...]:
    """What `auto` tries on this data, judged as `by` says."""
    names = tuple(name for name in AUTO if name != "ease" or dataset.graph.num_items < ease.MAX_ITEMS)
    names = (*closed_form.OF_BEHAVIOURS, *names) if dataset.graph.others else names
    return (closed_form.OF_REPEATS, *names) if may_repeat(by.seen, dataset) else names


def _fit(work: Work, name: str, graph: BipartiteGraph, path: Path) -> None:
    work.observer.work(f"fitting {name} for the mixture", 0, 0)
    dataset, job = work.dataset, work.job
    seen, pairs = seen_in_validation(job.evaluate, dataset), validation_pairs(job.evaluate, dataset)
    settings = closed_form.tuned(name, dataset.graph, pairs, partner_settings(job.model), seen)
    scorer = closed_form.fit(name, graph, settings, job.train.seed, dataset.item_features)
    with atomic_file(path) as part:
        closed_form.save(scorer, part)
        record(work.folder, {path: part})


def partner_settings(settings: Model) -> Model:
    """`[model]` as partners read it: gfcf has its plateau, which is better in mixtures, unless the job names another response.

    A key of the plateau keeps the job's value where that differs from the default of `[model]`.
    """
    if settings.response != "ideal":
        return settings
    fields = Model.model_fields
    own = {key: value for key, value in PLATEAU.items() if getattr(settings, key) == fields[key].default}
    return Model.model_validate({**settings.model_dump(), **own})


def _temperature(work: Work, trained: Exported, held: Csr | None) -> float:
    return temperature_of(work.job.loss, work.exports.cosine, trained, held)


def temperature_of(loss: Loss, cosine: bool, trained: Exported, held: Csr | None) -> float:
    """What the trained score is divided by in P: the loss's own temperature where the loss makes it a log probability.

    Where it does not (directau, a loss of another package, an export that is not the trained score), the one under which
    validation is likeliest.
    `cosine`: whether the trained score is one; `held`: user -> items of validation, None where there are none.
    """
    as_trained = trained.rule.kind in ("theory", "cosine" if cosine else "inner")
    if held is None or (as_trained and loss.name != "directau" and not loss.own):
        return 1.0 if loss.name == "bpr" else loss.temperature
    return likeliest_temperature(trained.scorer, held)


def likeliest_temperature(scorer: EmbeddingScorer, held: Csr) -> float:
    """The temperature of 2**-6 .. 2**6 with the largest mean over users of the mean log P of their held-out items."""
    users_H = np.flatnonzero(held.degrees).astype(np.int32)
    sample_H = users_H[np.unique(np.linspace(0, len(users_H) - 1, _LIKELIHOOD_USERS).astype(np.int64))]
    sums_T = np.zeros(len(_TEMPERATURES))
    for first in range(0, len(sample_H), _LIKELIHOOD_BLOCK):
        users_B = sample_H[first : first + _LIKELIHOOD_BLOCK]
        scratch_BI, shares_BI = torch.empty(2, len(users_B), scorer.num_items)
        for at, temperature in enumerate(_TEMPERATURES):
            Softmax(scorer, temperature).add(users_B, 1.0, scratch_BI, shares_BI.zero_())
            sums_T[at] += sum(float(shares_BI[b, held.row(user)].double().log().mean()) for b, user in enumerate(users_B))
    return _TEMPERATURES[int(sums_T.argmax())]


def _note_once(work: Work, text: str) -> None:
    """Note it, and write it to metrics.jsonl unless a killed run has written it before."""
    event = {"event": "note", "text": text}
    if event not in read_lines(work.folder):
        append_event(work.folder, event)
    work.observer.note(text)


def _sentence(mixture: Mixture) -> str:
    chosen = mixture.chosen
    if "value" not in chosen:
        return f"mixture: {mixture.name}, as the job gives it"
    alone = ", ".join(f"{name} {value:.4f}" for name, value in chosen["alone"].items())
    found = f"mixture: {mixture.name}, {chosen['metric']} {chosen['value']:.4f} on validation"
    return f"{found} (each alone, with ties by the trained model: {alone})"
