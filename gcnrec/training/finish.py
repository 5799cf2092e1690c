"""From a trained table to what ranks: validation, and the files of a finished run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gcnrec.errors import DivergedError
from gcnrec.ranking.export_rules import Exported, ExportedInStretches, ExportRule, Stretches
from gcnrec.ranking.scorer import Scorer
from gcnrec.ranking.seen import Lost
from gcnrec.ranking.top_k import USERS_PER_CHUNK
from gcnrec.runs.embeddings import VALUES, write_embeddings
from gcnrec.runs.events import warn_once
from gcnrec.runs.manifest import record
from gcnrec.runs.paths import MEMORY, MODEL, TABLE, embeddings_paths
from gcnrec.runs.slot_files import order_digest, write_slots
from gcnrec.steps.guards import Watched, one_list_for_everyone
from gcnrec.steps.protocol import TrainingStep
from gcnrec.storage.blocks import ColumnBlocks
from gcnrec.storage.documents import json_text
from gcnrec.storage.files import atomic_file
from gcnrec.system.arrays import arrays_in
from gcnrec.system.limits import peak_rss_bytes
from gcnrec.tables.dense import Table
from gcnrec.tables.placement import set_aside
from gcnrec.tables.rules import Rule
from gcnrec.tables.slots import SlotTable
from gcnrec.training.export_choice import validate_exports
from gcnrec.training.mixture_choice import fit_partners
from gcnrec.training.work import Work

if TYPE_CHECKING:
    from gcnrec.system.observer import Observer


def validate(work: Work, step: TrainingStep) -> dict[str, Any]:
    """What the record of an epoch says of validation: `valid` and `exports` of `validate_exports`."""
    exports = work.exports
    trained = exported_by(work, step, exports.rules[0])
    ranker = work.rankers(USERS_PER_CHUNK)
    return validate_exports(exports, trained, step.sampler.graph, work.dataset, work.job.evaluate, work.observer, ranker)


def exported_by(work: Work, step: TrainingStep, rule: ExportRule) -> Exported:
    """The embeddings to rank by, row after row in scratch of the run's folder. DivergedError when one is not finite."""
    graph, rows_NF = step.sampler.graph, _propagated(work, step).joined()
    return work.exports.exported(rows_NF, graph.num_users, work.exports.popularity_of(graph, rule), rule)


def final_by(work: Work, step: TrainingStep, rule: ExportRule) -> Stretches:
    """The embeddings to write, from scratch that leaves the disk as they are read. DivergedError when one is not finite.

    The table is trained, and a large one leaves RAM.
    """
    set_aside(work.plan.placement, step.table, work.folder)
    graph, blocks = step.sampler.graph, _propagated(work, step)
    degrees_I = work.exports.popularity_of(graph, rule)
    return ExportedInStretches(work.exports, rule, graph.num_users, blocks.width, degrees_I, blocks.take)


def _propagated(work: Work, step: TrainingStep) -> ColumnBlocks:
    blocks = work.export(step, work.folder, partial(work.observer.work, "propagating for the export"))
    if not np.isfinite(blocks.total):
        raise DivergedError(
            f"the embeddings of {work.folder} are not finite, so nothing is exported; begin another run with a lower "
            "optimizer.learning_rate"
        )
    return blocks


def finish(work: Work, step: TrainingStep, final: Stretches) -> None:
    """Write the files of a trained run, `final` among them, memory.json as the last (`is_trained`).

    A model that ranks the same items for everyone gets a warning.
    """
    plan, dataset, folder, first = work.plan, work.dataset, work.folder, work.exports.rules[0]
    if final.rule != first:
        work.observer.note(f"export {final.rule.name}: on validation better than {first.name} by more than two standard errors")
    written = [*embeddings_paths(folder)]
    if work.job.mixture.partners:
        written += fit_partners(work, step.sampler.graph)
    watched = Watched(final, len(dataset.user_ids), len(dataset.item_ids))
    write_embeddings(folder, dataset, watched, work.job.export.dtype, partial(work.observer.work, "writing embeddings"))
    _warn_of_one_list(folder, watched.said(), work.observer)
    table = step.table.drained()
    if isinstance(table, SlotTable):
        write_slots(folder / TABLE, table, order_digest(dataset.user_ids, dataset.item_ids))
        written.append(folder / TABLE)
    report: dict[str, Any] = {**memory_report(table, plan.rule, plan.budget, plan.base_width, step.encoder.export_width)}
    report["served_bytes"] = table.num_rows * step.encoder.export_width * VALUES[work.job.export.dtype].bit_width // 8
    report["arrays"] = arrays_in(step=step, dataset=dataset)
    with atomic_file(folder / MEMORY) as memory_file:
        memory_file.write_text(json_text(report), encoding="utf-8")
        record(folder, {**{path: path for path in written}, folder / MEMORY: memory_file})


def is_trained(folder: Path, closed_form: bool) -> bool:
    """Whether a run folder holds all that training writes, so that there is nothing to resume."""
    if closed_form:
        return (folder / MODEL).is_file()
    return all(path.is_file() for path in (folder / MEMORY, *embeddings_paths(folder)))


def memory_report(table: Table, rule: Rule, budget: int, base_width: int, export_width: int) -> dict[str, int]:
    """Values and bytes of a table and of the embeddings that it serves.

    `dense_bytes` is a dense table of the base width with the same rule; `scratch_bytes` what exports write to disk.
    `peak_table_bytes` counts table, state and what explorations hold, as allocated.
    """
    return {
        "budget_values": budget,
        "values": table.num_values,
        "values_max_seen": table.max_values_seen,
        "value_bytes": table.value_bytes,
        "index_bytes": table.index_bytes,
        "state_bytes": table.state_bytes,
        "peak_table_bytes": table.peak_bytes,
        "peak_rss_bytes": peak_rss_bytes(),
        "scratch_bytes": 4 * table.num_rows * export_width,
        "served_bytes": 4 * table.num_rows * export_width,
        "dense_bytes": table.num_rows * 4 * (base_width + rule.state_width(base_width) + 1),
    }


def warn_of_lost(folder: Path, lost: Lost, observer: Observer, of_job: bool = True) -> None:
    """Warn of held-out pairs that no list can hold; the run's events have it once, and once for each rule of `--seen`."""
    if lost.pairs:
        said, kind = lost.sentence(of_job), f"{lost.split} pairs that no list can hold"
        warn_once(folder, kind if of_job else f"{kind} by --seen {lost.rule}", said)
        observer.warn(said)


def warn_of_one_list(folder: Path, scorer: Scorer, observer: Observer, chunk: int = USERS_PER_CHUNK) -> None:
    """Warn, once in a run, of a model that ranks the same items for everyone."""
    _warn_of_one_list(folder, one_list_for_everyone(scorer, chunk), observer)


def _warn_of_one_list(folder: Path, said: str | None, observer: Observer) -> None:
    if said and warn_once(folder, "one list for everyone", said):
        observer.warn(said)
