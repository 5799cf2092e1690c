"""Datasets and runs from Python: `gcnrec.ingest`, `gcnrec.open_run`. `gcnrec.train` is `gcnrec.pipeline.train_job`."""

from __future__ import annotations

from gcnrec.config import Data
from gcnrec.loaders.parquet import ingest as write_dataset
from gcnrec.loaders.recipe import name_of
from gcnrec.loaders.schema import Dataset
from gcnrec.reports.progress import watched
from gcnrec.reports.run_cell import ShownRun
from gcnrec.runs import folder as runs
from gcnrec.storage.places import StrPath, place, place_if_any
from gcnrec.system.observer import SILENT, Observer


def ingest(
    data: Data, out: StrPath, *, data_root: StrPath | None = None, name: str | None = None, force: bool = False,
    observer: Observer = SILENT, progress: bool = False,
) -> Dataset:  # fmt: skip
    """Read what `data` names and write the dataset folder `out`; returns it, opened.

    `train`, `test`, `valid`, `item_features` and `user_features` are Parquet, or tables in memory with `__arrow_c_stream__`
    (pandas, Polars, Arrow, DuckDB). `dataset.json` has rows, schema and sha256 of such a table in place of a file. Relative paths
    start at `data_root`. `name` is the data set's; default `data.name`, or what `data.train` ends with, or for a table what `out`
    ends with. `force` replaces a dataset folder. `progress` shows a bar; `observer` gets notes and passes over the rows.
    Raises DataError for data that is not what it was declared to be, and for a full disk; `out` then stays as it is.
    """
    to = place(out)
    called = name or data.name or (to.name if "train" in data.tables else name_of(data.train or "data"))
    with watched(progress, observer) as heard:
        return write_dataset(
            data, to, data_root=place_if_any(data_root), name=called, force=force, progress=heard.note, work=heard.work
        )


def open_run(folder: StrPath, observer: Observer = SILENT) -> ShownRun:
    """Open a run folder and its dataset. A notebook shows the run as figures and two charts.

    `observer` gets a warning where an earlier version made the folder, so that its files cannot be verified. Raises DataError
    when folder or dataset is missing or damaged, or when the dataset has changed since.
    """
    return ShownRun.of(runs.open_run(folder, observer))
