"""The memory of a run, and the budget of its table, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from gcnrec.reports.figures import size
from gcnrec.runs.contents import RunContents

_TABLE = {"values", "value_bytes", "index_bytes", "state_bytes", "dense_bytes"}


def memory_words(contents: RunContents) -> list[str]:
    """Sentences on what memory.json counts; none where it is missing."""
    return list(_sentences(contents))


def _sentences(contents: RunContents) -> Iterator[str]:
    """Sentences on table, budget and peaks, as far as the run has recorded them."""
    memory, job = contents.memory, contents.job
    if not job.model.closed_form and memory.keys() >= _TABLE:
        yield from _of_table(contents)
    if "peak_table_bytes" in memory:
        yield f"Training held at most {size(memory['peak_table_bytes'])} at a time for the table, its state and explorations."
    if memory.get("peak_rss_bytes"):
        yield f"The training process took at most {size(memory['peak_rss_bytes'])} of memory, with libraries and mapped files."
    if memory.get("scratch_bytes"):
        yield f"Scratch files on disk took {size(memory['scratch_bytes'])}, which is given back."
    if memory.get("served_bytes"):
        yield f"The embeddings that are served take {size(memory['served_bytes'])}."
    if memory:
        yield f"Evaluation keeps to evaluate.memory_limit, {job.evaluate.memory_limit}, next to the process itself."


def _of_table(contents: RunContents) -> Iterator[str]:
    """How full the budget is, and what the table takes next to a dense one."""
    memory = contents.memory
    budget, most = memory.get("budget_values", 0), memory.get("values_max_seen", 0)
    if contents.job.is_sparse and budget:
        yield (
            f"The table stores {memory['values']:,} values, {memory['values'] / budget:.1%} of its budget of {budget:,}; "
            f"it never stored more than {most:,}."
        )
    else:
        yield f"The table is dense and stores {memory['values']:,} values."
    parts = [("values", "value_bytes"), ("positions", "index_bytes"), ("the optimizer's state", "state_bytes")]
    held = [(name, memory[key]) for name, key in parts if memory[key]]
    whole = sum(count for _, count in held)
    share = (
        f", {whole / memory['dense_bytes']:.1%} of a dense table with its state"
        if contents.job.is_sparse and memory["dense_bytes"]
        else ""
    )
    yield f"It takes {size(whole)}: {', '.join(f'{size(count)} for {name}' for name, count in held)}{share}."
