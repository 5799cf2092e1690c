"""How many values a job may store, and how many its table has room for."""

from __future__ import annotations

from gcnrec.config import Job
from gcnrec.errors import UsageError
from gcnrec.tables.slots import MAX_COLUMNS


def base_width(job: Job) -> int:
    """The width that the budget refers to."""
    if job.table.base_width is not None:
        return job.table.base_width
    return 64 if job.model.width == "auto" else job.model.width


def budget_values(job: Job, num_rows: int) -> int:
    """The number of values that a table may store: floor(budget * rows * base width). UsageError when that is none."""
    values = int(job.table.budget * num_rows * base_width(job) + 1e-9)
    if not values:
        raise UsageError(f"table.budget = {job.table.budget} of {num_rows:,} rows of {base_width(job)} leaves no value; raise it")
    return values


def table_width(job: Job) -> int:
    """Columns of the table: `model.width`, where "auto" is the base width for a dense table and 256 for a sparse one.

    256 is as far as column numbers of one byte reach; on Gowalla it beat 128 at equal values at budgets of 0.5 and 0.25, as
    Sparse-IFT found for wider layers (Thangarasa et al. 2024).
    """
    if job.model.width != "auto":
        return job.model.width
    dense_at_first = job.table.budget == 1.0 or job.sparsity.policy == "gradual"
    return base_width(job) if dense_at_first else MAX_COLUMNS


def room_for(job: Job, budget: int, num_rows: int, width: int) -> int:
    """Values that a job's table must have room for: the budget, but for `gradual` all there are."""
    return num_rows * width if job.sparsity.policy == "gradual" else budget
