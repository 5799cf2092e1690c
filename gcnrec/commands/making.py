"""Commands that make a dataset or a run: run, check, ingest, train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gcnrec.commands.observed import LogJson, observing
from gcnrec.console import output
from gcnrec.console.arguments import (
    AsJson,
    BehaviourColumn,
    DataFolder,
    DataRoot,
    DecayDays,
    FeaturesText,
    FeatureWeights,
    Force,
    IngestAgain,
    JobFile,
    KCore,
    KeepOther,
    MemoryLimit,
    MinRating,
    NegativeBelow,
    NumberedPairs,
    Overrides,
    PartitionType,
    Resume,
    Seed,
    SplitBy,
    Target,
    TestSize,
    TestUntil,
    TextWidth,
    ValidSize,
    WarmSize,
    WeightLog,
    WhereTest,
    Workers,
    named_values,
    place_or_address,
    source_or_address,
)
from gcnrec.errors import UsageError
from gcnrec.extensions.load import require


def run(
    job: JobFile,
    data: DataFolder = None,
    data_root: DataRoot = None,
    out: Annotated[
        Path | None, typer.Option(metavar="RUN", parser=place_or_address, help="The run folder; default runs/<name>.")
    ] = None,
    set_: Overrides = None,
    resume: Resume = False,
    workers: Workers = None,
    force: IngestAgain = False,
    as_json: AsJson = False,
    log_json: LogJson = False,
) -> None:
    """Ingest if needed, train, evaluate, export, report."""
    from gcnrec.commands.workers import leading, resumes
    from gcnrec.config import Job
    from gcnrec.loaders.on_demand import DataRequest
    from gcnrec.pipeline import run_job
    from gcnrec.reports.text import metric_lines

    settings = Job.load(job, set_)
    request, resume = DataRequest(settings.data, job, data, data_root, force), resumes(resume, out)
    with (
        leading(workers, settings.run.timeout_minutes) as world,
        observing(as_json, log_json, settings.evaluate.metric) as observer,
    ):
        metrics, report = run_job(settings, request, out, resume, observer, world)
    folder = report.parent
    output.show({"run": str(folder), **metrics} if as_json else [*metric_lines(metrics), f"{folder}  (open {report})"])


def check(
    job: JobFile,
    data: DataFolder = None,
    data_root: DataRoot = None,
    set_: Overrides = None,
    workers: Workers = None,
    resolved: Annotated[
        bool,
        typer.Option(
            "--resolved", help="Print the job with every key, and why the data or another key decided some; time nothing."
        ),
    ] = False,
    force: IngestAgain = False,
    as_json: AsJson = False,
) -> None:
    """Validate, open the data, time a few steps, predict memory, disk and duration; write no run."""
    from gcnrec.config import Job
    from gcnrec.loaders.on_demand import DataRequest, open_or_ingest
    from gcnrec.reports.text import figure_lines
    from gcnrec.training.check import check as predict
    from gcnrec.training.open_keys import commented, shared
    from gcnrec.training.open_keys import resolved as located_in

    if resolved and as_json:
        raise UsageError("--resolved prints a job file; leave --json out")
    settings = Job.load(job, set_)
    require(settings.own)
    with observing(as_json or resolved) as observer:
        dataset = open_or_ingest(DataRequest(settings.data, job, data, data_root, force), observer)
        if resolved:
            print(commented(shared(located_in(settings, dataset), workers or 1, observer), dataset), end="")
            return
        prediction = predict(settings, dataset, observer, workers)
    output.show(prediction if as_json else figure_lines(prediction))


def ingest(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option(metavar="DIR", parser=place_or_address, help="The dataset folder to write.")],
    card: Annotated[Path | None, typer.Argument(metavar="CARD.toml", help="A card; or give --train and its columns.")] = None,
    data_root: DataRoot = None, numbered: NumberedPairs = None,
    train: Annotated[str | None, typer.Option(metavar="PATH", help="Parquet: a file, folder, glob or URI.")] = None,
    test: Annotated[str | None, typer.Option(metavar="PATH", help="Held out for the test metrics.")] = None,
    valid: Annotated[str | None, typer.Option(metavar="PATH", help="Held out for validation.")] = None,
    user: Annotated[str | None, typer.Option(metavar="COLUMN", help="User ids; a.b names a struct field.")] = None,
    item: Annotated[str | None, typer.Option(metavar="COLUMN", help="Item ids.")] = None,
    time: Annotated[str | None, typer.Option(metavar="COLUMN", help="When it happened.")] = None,
    time_unit: Annotated[str | None, typer.Option(metavar="s|ms|us|ns", help="Unit of a numeric time.")] = None,
    weight: Annotated[str | None, typer.Option(metavar="COLUMN|SQL", help="Scales the loss of an interaction.")] = None,
    decay_days: DecayDays = None, weight_log: WeightLog = None,
    behaviour: BehaviourColumn = None, target: Target = None, keep_other: KeepOther = None,
    rating: Annotated[str | None, typer.Option(metavar="COLUMN", help="What --min-rating and --negative-below read.")] = None,
    min_rating: MinRating = None, negative_below: NegativeBelow = None,
    where: Annotated[str | None, typer.Option(metavar="SQL", help="Keep rows that satisfy this condition.")] = None,
    where_test: WhereTest = None, partition_type: PartitionType = None,
    duplicates: Annotated[str | None, typer.Option(metavar="latest|sum", help="How repeated pairs are merged.")] = None,
    k_core: KCore = None, split: SplitBy = None,
    valid_size: ValidSize = None, test_size: TestSize = None, warm_size: WarmSize = None,
    test_from: Annotated[str | None, typer.Option(metavar="TIME", help="temporal: where test begins.")] = None,
    test_until: TestUntil = None,
    seed: Seed = None,
    repeats: Annotated[str | None, typer.Option(metavar="drop|keep", help="Held-out pairs that are also in train.")] = None,
    keep_cold: Annotated[bool | None, typer.Option("--keep-cold", help="Keep held-out nodes without train edges.")] = None,
    item_features: Annotated[str | None, typer.Option(metavar="PATH", help="Item features by item id.")] = None,
    user_features: Annotated[str | None, typer.Option(metavar="PATH", help="User features by user id.")] = None,
    features_text: FeaturesText = None, feature_weights: FeatureWeights = None, text_width: TextWidth = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="What the data set is called.")] = None,
    memory_limit: MemoryLimit = None,
    max_id_bytes: Annotated[int | None, typer.Option(metavar="N", help="Bytes that an id may have; 4096 by default.")] = None,
    force: Force = False,
    as_json: AsJson = False,
    log_json: LogJson = False,
) -> None:  # fmt: skip
    """Write a dataset folder from Parquet, by a card or by flags (which also override a card's [data])."""
    from gcnrec.loaders.numbered.folder import ingest_numbered
    from gcnrec.loaders.numbered.layout import settings_of
    from gcnrec.loaders.on_demand import ingest_flags
    from gcnrec.reports.text import dataset_lines

    with observing(as_json, log_json) as observer:
        if numbered is None:
            dataset = ingest_flags(card, _given(ctx), out, data_root=data_root, force=force, observer=observer)
        else:
            data = settings_of(_given(ctx), card)
            dataset = ingest_numbered(numbered, data, out, data_root=data_root, force=force, observer=observer)
    output.show(dataset.info if as_json else dataset_lines(dataset.info))


def _given(ctx: typer.Context) -> dict[str, Any]:
    """The options that are keys of `[data]` and were given."""
    from gcnrec.config import Data

    tables = {
        "partition_type": ("--partition-type", "KEY=TYPE such as user=int64"),
        "feature_weights": ("--feature-weights", "COLUMN=X such as title=2"),
    }
    keys = set(Data.model_fields) - {"card", *tables}
    given = {name: value for name, value in ctx.params.items() if name in keys and value not in (None, ())}
    return given | {name: named_values(ctx.params[name], *words) for name, words in tables.items() if ctx.params.get(name)}


def train(
    job: JobFile,
    data: Annotated[Path, typer.Option(metavar="DIR", parser=source_or_address, help="A dataset folder.")],
    out: Annotated[Path, typer.Option(metavar="RUN", parser=place_or_address, help="The run folder to write.")],
    set_: Overrides = None,
    resume: Resume = False,
    workers: Workers = None,
    as_json: AsJson = False,
    log_json: LogJson = False,
) -> None:
    """Train on a dataset folder and export; no test metrics yet."""
    from gcnrec.commands.workers import leading, resumes
    from gcnrec.config import Job
    from gcnrec.loaders.schema import open_dataset
    from gcnrec.pipeline import run_folder
    from gcnrec.reports.text import metric_lines
    from gcnrec.runs.contents import RunContents
    from gcnrec.training.train import train as fit

    settings = Job.load(job, set_)
    require(settings.own)
    with (
        leading(workers, settings.run.timeout_minutes) as world,
        observing(as_json, log_json, settings.evaluate.metric) as observer,
    ):
        resume = resumes(resume, out)
        folder = run_folder(Path("runs"), job.stem, out, resume)
        fit(settings, open_dataset(data), folder, resume=resume, observer=observer, world=world)
    contents = RunContents(folder)
    metrics = contents.best_validation(settings.evaluate.metric)
    if metrics and contents.mixture and contents.mixture.partners:
        value = contents.mixture.chosen.get("value")
        metrics["mixture"] = contents.mixture.name + ("" if value is None else f", {settings.evaluate.metric} {value:.4f}")
    output.show({"run": str(folder), **metrics} if as_json else [*metric_lines(metrics), str(folder)])


COMMANDS = (run, check, ingest, train)
"""In the order of the help."""
