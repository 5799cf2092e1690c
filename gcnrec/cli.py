"""The command line: parses and prints. The work is in the functions that each command imports inside itself, so that
`gcnrec --help` starts fast."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperGroup

from gcnrec.console import encoding, output
from gcnrec.console.arguments import (
    AsJson,
    AttributesOf,
    BehaviourColumn,
    BeyondAccuracy,
    DataFolder,
    DataRoot,
    DecayDays,
    Diversity,
    Force,
    ForItems,
    IngestAgain,
    JobFile,
    JudgedTable,
    KCore,
    KeepOther,
    MaxPer,
    MemoryLimit,
    MinRating,
    NegativeBelow,
    NewItems,
    NewUsers,
    OutFile,
    Overrides,
    PartitionType,
    Per,
    Replace,
    ReplaceExport,
    Resume,
    RunFolder,
    Seed,
    SeenInLists,
    SeenRule,
    Segment,
    SplitBy,
    Target,
    TestSize,
    TestUntil,
    TextWidth,
    ValidSize,
    ValueColumn,
    WarmSize,
    WeightLog,
    WhereTest,
    count,
    key_types,
    limits_per_column,
    place_to_write,
    refuse_with_for_items,
)
from gcnrec.console.expected import expected
from gcnrec.errors import DeviceError, UsageError, install
from gcnrec.storage.streams import keep_streams
from gcnrec.system.signals import end_line, follow_parent, stopped, watch, working
from gcnrec.system.supported import WINDOWS
from gcnrec.version import __version__

if TYPE_CHECKING:
    from gcnrec.system.observer import Observer

_LOG_JSON = "gcnrec.log_json"


def _keep(ctx: typer.Context, log_json: bool) -> bool:
    """Remember --log-json for what ends the command: contexts of a group and its command share `meta`."""
    ctx.meta[_LOG_JSON] = log_json
    if log_json:
        from gcnrec.reports.progress import line_of

        end_line(lambda text, code: f"{line_of('error', 'error', {'text': text, 'exit_code': code})}\n".encode())
    return log_json


LogJson = Annotated[bool, typer.Option("--log-json", callback=_keep, help="Report on stderr as JSON, one object a line.")]


class _Commands(TyperGroup):
    """Turns expected errors into one sentence on stderr and their exit code; anything else keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BaseException as problem:
            known = expected(stopped() or problem)  # others' errors may be the signal in disguise
            if known is None:
                raise
            output.report(known, ctx.meta.get(_LOG_JSON, False))
            raise SystemExit(known.exit_code) from None


app = typer.Typer(
    cls=_Commands,
    help="Graph recommenders trained in offline jobs: Parquet in, recall out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """The console script: 0 done, 1 a bug, 2 usage, 3 data, 4 device or memory, 5 diverged, 130 Ctrl-C, 143 SIGTERM."""
    if sys.platform == "win32":
        _end(WINDOWS)
    encoding.speak_utf8()
    if not all(map(encoding.is_utf8, sys.argv)):
        text = next(text for text in sys.argv if not encoding.is_utf8(text))
        _end(f"an argument must be text in UTF-8, got {text!r}; rename that file or folder")
    try:
        Path.cwd()
    except FileNotFoundError:  # torch then ends the process as it loads
        _end("the working directory is not there any more; change to another one, for example by 'cd /'")
    # torch and numba load an OpenMP runtime each: workers that spin for long after their work steal the cores of the other pool.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # Without a home, matplotlib advises a cache folder in two lines; the charts of a report need none.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    keep_streams()
    watch()
    end_line(lambda text, _: f"{output.sentence(text)}\n".encode(errors="backslashreplace"))
    follow_parent()
    try:
        app()
    except SystemExit as end:
        if not end.code:
            output.deliver()
        raise


def _end(text: str) -> NoReturn:
    """End the command with a sentence before it has begun."""
    output.report(UsageError(text), log_json=False)
    raise SystemExit(UsageError.exit_code)


def _version(on: bool) -> None:
    if on:
        print(f"gcnrec {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)] = False,
) -> None:
    pass


@app.command()
def run(
    job: JobFile,
    data: DataFolder = None,
    data_root: DataRoot = None,
    out: Annotated[
        Path | None, typer.Option(metavar="RUN", parser=place_to_write, help="The run folder; default runs/<name>.")
    ] = None,
    set_: Overrides = None,
    resume: Resume = False,
    force: IngestAgain = False,
    as_json: AsJson = False,
    log_json: LogJson = False,
) -> None:
    """Ingest if needed, train, evaluate, export, report."""
    from gcnrec.config import Job
    from gcnrec.loaders.on_demand import DataRequest
    from gcnrec.pipeline import run_job
    from gcnrec.reports.text import metric_lines

    settings = Job.load(job, set_)
    with _observed(as_json, log_json, settings.evaluate.metric) as observer:
        metrics, report = run_job(settings, DataRequest(settings.data, job, data, data_root, force), out, resume, observer)
    folder = report.parent
    output.show({"run": str(folder), **metrics} if as_json else [*metric_lines(metrics), f"{folder}  (open {report})"])


@app.command()
def check(
    job: JobFile,
    data: DataFolder = None,
    data_root: DataRoot = None,
    set_: Overrides = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print the job with every key, and why the data decided some; time nothing.")
    ] = False,
    force: IngestAgain = False,
    as_json: AsJson = False,
) -> None:
    """Validate, open the data, time a few steps, predict memory, disk and duration; write no run."""
    from gcnrec.config import Job
    from gcnrec.loaders.on_demand import DataRequest, open_or_ingest
    from gcnrec.reports.text import figure_lines
    from gcnrec.training.check import check as predict
    from gcnrec.training.open_keys import commented
    from gcnrec.training.open_keys import resolved as located_in

    if resolved and as_json:
        raise UsageError("--resolved prints a job file; leave --json out")
    settings = Job.load(job, set_)
    with _observed(as_json or resolved) as observer:
        dataset = open_or_ingest(DataRequest(settings.data, job, data, data_root, force), observer)
    if resolved:
        print(commented(located_in(settings, dataset), dataset), end="")
        return
    with working():
        prediction = predict(settings, dataset)
    output.show(prediction if as_json else figure_lines(prediction))


@app.command()
def ingest(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option(metavar="DIR", parser=place_to_write, help="The dataset folder to write.")],
    card: Annotated[Path | None, typer.Argument(metavar="CARD.toml", help="A card; or give --train and its columns.")] = None,
    data_root: DataRoot = None,
    train: Annotated[str | None, typer.Option(metavar="PATH", help="Parquet: a file, folder, glob or URI.")] = None,
    test: Annotated[str | None, typer.Option(metavar="PATH", help="Held out for the test metrics.")] = None,
    valid: Annotated[str | None, typer.Option(metavar="PATH", help="Held out for validation.")] = None,
    user: Annotated[str | None, typer.Option(metavar="COLUMN", help="User ids; a.b names a struct field.")] = None,
    item: Annotated[str | None, typer.Option(metavar="COLUMN", help="Item ids.")] = None,
    time: Annotated[str | None, typer.Option(metavar="COLUMN", help="When it happened.")] = None,
    time_unit: Annotated[str | None, typer.Option(metavar="s|ms|us|ns", help="Unit of a numeric time.")] = None,
    weight: Annotated[str | None, typer.Option(metavar="COLUMN|SQL", help="Scales the loss of an interaction.")] = None,
    decay_days: DecayDays = None, weight_log: WeightLog = None,
    behaviour: BehaviourColumn = None,
    target: Target = None,
    keep_other: KeepOther = None,
    rating: Annotated[str | None, typer.Option(metavar="COLUMN", help="What --min-rating and --negative-below read.")] = None,
    min_rating: MinRating = None, negative_below: NegativeBelow = None,
    where: Annotated[str | None, typer.Option(metavar="SQL", help="Keep rows that satisfy this condition.")] = None,
    where_test: WhereTest = None,
    partition_type: PartitionType = None,
    duplicates: Annotated[str | None, typer.Option(metavar="latest|sum", help="How repeated pairs are merged.")] = None,
    k_core: KCore = None,
    split: SplitBy = None,
    valid_size: ValidSize = None,
    test_size: TestSize = None,
    warm_size: WarmSize = None,
    test_from: Annotated[str | None, typer.Option(metavar="TIME", help="temporal: where test begins.")] = None,
    test_until: TestUntil = None,
    seed: Seed = None,
    repeats: Annotated[str | None, typer.Option(metavar="drop|keep", help="Held-out pairs that are also in train.")] = None,
    keep_cold: Annotated[bool | None, typer.Option("--keep-cold", help="Keep held-out nodes without train edges.")] = None,
    item_features: Annotated[str | None, typer.Option(metavar="PATH", help="Item features by item id.")] = None,
    user_features: Annotated[str | None, typer.Option(metavar="PATH", help="User features by user id.")] = None,
    text_width: TextWidth = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="What the data set is called.")] = None,
    memory_limit: MemoryLimit = None,
    max_id_bytes: Annotated[int | None, typer.Option(metavar="N", help="Bytes that an id may have; 4096 by default.")] = None,
    force: Force = False,
    as_json: AsJson = False,
    log_json: LogJson = False,
) -> None:  # fmt: skip
    """Write a dataset folder from Parquet, by a card or by flags (which also override a card's [data])."""
    from gcnrec.loaders.on_demand import ingest_flags
    from gcnrec.reports.text import dataset_lines

    with _observed(as_json, log_json) as observer:
        dataset = ingest_flags(card, _given(ctx), out, data_root=data_root, force=force, observer=observer)
    output.show(dataset.info if as_json else dataset_lines(dataset.info))


def _given(ctx: typer.Context) -> dict[str, Any]:
    """The options that are keys of `[data]` and were given."""
    from gcnrec.config import Data

    keys = set(Data.model_fields) - {"card", "partition_type"}
    given = {name: value for name, value in ctx.params.items() if name in keys and value not in (None, ())}
    declared = ctx.params.get("partition_type")
    return given | ({"partition_type": key_types(declared)} if declared else {})


@app.command()
def train(
    job: JobFile,
    data: Annotated[Path, typer.Option(metavar="DIR", help="A dataset folder.")],
    out: Annotated[Path, typer.Option(metavar="RUN", parser=place_to_write, help="The run folder to write.")],
    set_: Overrides = None,
    resume: Resume = False,
    as_json: AsJson = False,
    log_json: LogJson = False,
) -> None:
    """Train on a dataset folder and export; no test metrics yet."""
    from gcnrec.config import Job
    from gcnrec.loaders.schema import open_dataset
    from gcnrec.pipeline import run_folder
    from gcnrec.reports.text import metric_lines
    from gcnrec.runs.contents import RunContents
    from gcnrec.training.train import train as fit

    settings = Job.load(job, set_)
    folder = run_folder(Path("runs"), job.stem, out, resume)
    with _observed(as_json, log_json, settings.evaluate.metric) as observer:
        fit(settings, open_dataset(data), folder, resume=resume, observer=observer)
    contents = RunContents(folder)
    metrics = contents.best_validation(settings.evaluate.metric)
    if metrics and contents.mixture and contents.mixture.partners:
        value = contents.mixture.chosen.get("value")
        metrics["mixture"] = contents.mixture.name + ("" if value is None else f", {settings.evaluate.metric} {value:.4f}")
    output.show({"run": str(folder), **metrics} if as_json else [*metric_lines(metrics), str(folder)])


@app.command()
def evaluate(
    run: RunFolder,
    split: Annotated[Literal["valid", "test"], typer.Option(metavar="valid|test", help="What to rank for.")] = "test",
    k: Annotated[str | None, typer.Option("--k", metavar="10,20,50", help="List lengths; default the job's.")] = None,
    segments: Annotated[Path | None, typer.Option(metavar="FILE", help="Parquet of user id and segment.")] = None,
    seen: SeenRule = None,
    beyond_accuracy: BeyondAccuracy = False,
    per: Per = None,
    value: ValueColumn = None,
    attributes: AttributesOf = None,
    lists: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Judge these lists of another system, and leave the run as it is.")
    ] = None,
    out: JudgedTable = None,
    force: Replace = False,
    memory_limit: MemoryLimit = None,
    as_json: AsJson = False,
    log_json: LogJson = False,
) -> None:
    """Rank all items for every held-out user; write metrics and per-user metrics into the run folder."""
    from gcnrec.pipeline import list_lengths

    lengths = list_lengths(k)
    from gcnrec.reports.text import metric_lines
    from gcnrec.results.evaluate import Terms, evaluate_lists, evaluate_run
    from gcnrec.results.given.details import Details
    from gcnrec.results.given.lists import table_of
    from gcnrec.runs.folder import open_run

    details = Details(tuple(per or ()), value, attributes, beyond_accuracy)
    if lists is None and (out is not None or force):
        raise UsageError("--out and --force belong to --lists; metrics of the run go into its folder")
    with _observed(as_json, log_json) as observer:
        if lists is None:
            metrics = evaluate_run(open_run(run, observer), split, lengths, segments, observer, memory_limit, seen, details)
        else:
            terms, table = Terms(split, lengths, seen), table_of(out, segments, force)
            metrics = evaluate_lists(open_run(run, observer), lists, table, terms, details, observer)
    output.show(metrics if as_json else metric_lines(metrics))


@app.command()
def recommend(
    run: RunFolder,
    out: OutFile,
    k: Annotated[int, typer.Option("--k", metavar="N", parser=count, help="Items per user.")] = 20,
    users: Annotated[Path | None, typer.Option(metavar="FILE", help="Only these users.")] = None,
    items: Annotated[Path | None, typer.Option(metavar="FILE", help="Rank only these items.")] = None,
    candidates: Annotated[Path | None, typer.Option(metavar="FILE", help="Rank, per user, only these pairs.")] = None,
    exclude: Annotated[Path | None, typer.Option(metavar="FILE", help="Leave these pairs out.")] = None,
    segment: Segment = None,
    for_items: ForItems = None,
    seen: SeenInLists = "all",
    fallback: Annotated[Literal["popularity"] | None, typer.Option(metavar="popularity", help="What unknown users get.")] = None,
    new_users: NewUsers = None,
    new_items: NewItems = None,
    max_per: MaxPer = None,
    attributes: Annotated[Path | None, typer.Option(metavar="FILE", help="Items with the columns of --max-per.")] = None,
    diversity: Diversity = 0.0,
    force: Replace = False,
    memory_limit: MemoryLimit = None,
    as_json: AsJson = False,
    log_json: LogJson = False,
) -> None:
    """Write top-k lists: the original ids, rank from 1, score."""
    from gcnrec.reports.text import figure_lines
    from gcnrec.results.outputs import Output
    from gcnrec.results.recommend import recommend as write
    from gcnrec.results.relisting import Relisting
    from gcnrec.results.shop.audience import AudienceFiles, AudienceOptions, audience
    from gcnrec.runs.folder import open_run

    relisting = Relisting(limits_per_column(max_per or []), attributes, diversity)
    with _observed(as_json, log_json) as observer:
        opened, to = open_run(run, observer), Output(out, force)
        if for_items is not None:
            files = AudienceFiles(for_items, users, exclude, new_users, new_items)
            of_lists = {"--items": items, "--candidates": candidates, "--max-per": max_per, "--diversity": diversity}
            refuse_with_for_items(of_lists | {"--segment": segment})
            options = AudienceOptions(k, seen, fallback)
            made = asdict(audience(opened, files, options, to, memory_limit=memory_limit, observer=observer))
        else:
            made = asdict(write(
                opened, k, to, users=users, items=items, candidates=candidates, exclude=exclude, seen=seen, fallback=fallback,
                new_users=new_users, new_items=new_items, relisting=relisting, segment=segment, memory_limit=memory_limit,
                observer=observer,
            ))  # fmt: skip
    output.show(made if as_json else figure_lines(made))


@app.command()
def similar(
    run: RunFolder,
    out: OutFile,
    k: Annotated[int, typer.Option("--k", metavar="N", parser=count, help="Length of a list.")] = 20,
    items: Annotated[str | None, typer.Option(metavar="FILE|all", help="Items that get a list; default all.")] = None,
    users: Annotated[str | None, typer.Option(metavar="FILE|all", help="Users that get a list, of users.")] = None,
    among: Annotated[Path | None, typer.Option(metavar="FILE", help="Lists name only these.")] = None,
    exclude: Annotated[Path | None, typer.Option(metavar="FILE", help="Leave these out, or these pairs.")] = None,
    new_items: NewItems = None,
    new_users: NewUsers = None,
    force: Replace = False,
    memory_limit: MemoryLimit = None,
    as_json: AsJson = False,
    log_json: LogJson = False,
) -> None:
    """Write the items most like each item, or users like each user: original ids, rank from 1, cosine of the embeddings."""
    from gcnrec.reports.text import figure_lines
    from gcnrec.results.outputs import Output
    from gcnrec.results.similar import SimilarFiles
    from gcnrec.results.similar import similar as write
    from gcnrec.runs.folder import open_run

    of_users = users is not None or new_users is not None
    if of_users and (items is not None or new_items is not None):
        raise UsageError("similar lists items of items, or users of users; give options of one of them")
    given, new = (users, new_users) if of_users else (items, new_items)
    files = SimilarFiles(None if given in (None, "all") else Path(given), among, exclude, new, every=given == "all")
    with _observed(as_json, log_json) as observer:
        made = write(
            open_run(run, observer),
            "user" if of_users else "item",
            k,
            Output(out, force),
            files,
            memory_limit=memory_limit,
            observer=observer,
        )
    output.show(asdict(made) if as_json else figure_lines(asdict(made)))


@app.command()
def score(
    run: RunFolder,
    pairs: Annotated[Path, typer.Option(metavar="FILE", help="Pairs of user and item.")],
    out: OutFile,
    seen: Annotated[
        Literal["all", "met", "train", "none"],
        typer.Option(metavar="all|met|train|none", help="What takes no place in the ranking."),
    ] = "none",
    new_users: NewUsers = None,
    new_items: NewItems = None,
    force: Replace = False,
    memory_limit: MemoryLimit = None,
    as_json: AsJson = False,
    log_json: LogJson = False,
) -> None:
    """Write the score of each pair of a file, and the item's rank among all items for that user; no row is dropped."""
    from gcnrec.reports.text import figure_lines
    from gcnrec.results.outputs import Output
    from gcnrec.results.score import NewNodes
    from gcnrec.results.score import score as write
    from gcnrec.runs.folder import open_run

    with _observed(as_json, log_json) as observer:
        made = write(
            open_run(run, observer), pairs, Output(out, force), seen=seen, new=NewNodes(new_users, new_items),
            memory_limit=memory_limit, observer=observer,
        )  # fmt: skip
    output.show(asdict(made) if as_json else figure_lines(asdict(made)))


@app.command()
def export(
    run: RunFolder,
    kind: Annotated[str, typer.Option("--format", metavar="faiss|bundle|parquet", help="What to write.")],
    out: Annotated[
        Path, typer.Option(metavar="PATH", parser=place_to_write, help="The folder to write; for a bundle, the file.")
    ],
    index: Annotated[str | None, typer.Option(metavar="flat|hnsw", help="faiss: the index; default flat.")] = None,
    k: Annotated[int | None, typer.Option("--k", metavar="N", parser=count, help="faiss: measure recall@N; default 20.")] = None,
    force: ReplaceExport = False,
    as_json: AsJson = False,
) -> None:
    """Write what serving needs: a FAISS index of the items, a safetensors bundle, or the embeddings."""
    from gcnrec.reports.text import figure_lines
    from gcnrec.results.export import export as write
    from gcnrec.runs.folder import open_run

    with _observed(as_json) as observer:
        made = write(open_run(run, observer), kind, out, index=index, k=k, force=force, observer=observer)
    output.show(made if as_json else figure_lines(made))


@app.command()
def backtest(
    job: JobFile,
    cuts: Annotated[int, typer.Option(metavar="N", parser=count, help="Test windows.")] = 4,
    every: Annotated[str, typer.Option(metavar="SPAN", help="Length of a window: 7d, 12h, 2w.")] = "7d",
    data_root: DataRoot = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", parser=place_to_write, help="The folder to write; default runs/<job>-backtest.")
    ] = None,
    set_: Overrides = None,
    as_json: AsJson = False,
    log_json: LogJson = False,
) -> None:
    """Train and evaluate a job at several moments in time; the same command continues."""
    from gcnrec.config import Job
    from gcnrec.loaders.on_demand import DataRequest
    from gcnrec.pipeline import backtest_job
    from gcnrec.reports.text import backtest_lines
    from gcnrec.results.backtest import Windows, seconds_of

    settings, windows = Job.load(job, set_), Windows(cuts, seconds_of(every))
    folder = out or Path("runs") / f"{job.stem}-backtest"
    with _observed(as_json, log_json, settings.evaluate.metric) as observer:
        found = backtest_job(settings, DataRequest(settings.data, job, None, data_root), windows, folder, observer)
    output.show(asdict(found) if as_json else [*backtest_lines(found), str(folder)])


@app.command()
def compare(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="The run to compare with.")],
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs, or files of 'evaluate --lists'.")],
    as_json: AsJson = False,
) -> None:
    """Differences per metric with paired bootstrap intervals and Holm's p-values; same data and users or refused."""
    from gcnrec.reports.text import comparison_lines
    from gcnrec.results.compare import compare as contrast
    from gcnrec.results.given.lists import open_judged
    from gcnrec.runs.folder import open_run

    with _observed(as_json) as observer:
        if base.is_file():
            raise UsageError(f"the first argument must be a run, {base} is a file; name the run that the lists were judged by")
        others = [open_judged(run) if run.is_file() or run.suffix == ".parquet" else open_run(run, observer) for run in runs]
        comparison = contrast(open_run(base, observer), others)
    output.show(asdict(comparison) if as_json else comparison_lines(comparison))


@app.command()
def sweep(
    grid: Annotated[Path, typer.Argument(metavar="GRID.toml", help="The grid file.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", parser=place_to_write, help="Where the runs and their summary go; again to continue.")
    ],
    data: DataFolder = None,
    data_root: DataRoot = None,
    set_: Overrides = None,
    jobs: Annotated[int, typer.Option(metavar="N", parser=count, help="Runs at a time, each on its share of the cores.")] = 1,
    force: IngestAgain = False,
    log_json: LogJson = False,
) -> None:
    """Train every combination of a grid; write DIR/sweep.parquet, curves.parquet and sweep.html, skip what is finished.

    A grid file is a job file, or names one, with lists and bundles of settings:

    \b
      job = "gowalla.toml"                  # next to this file; sections below change its keys
      compare = "dynamic"                   # the variant to compare with, or its first; default the first of all
      [train]
      refit = false
      [grid]                                # every combination of these ...
      table.budget = [0.5, 0.25]
      train.seed = [0, 1, 2]
      [variants.dynamic]                    # ... once per variant
      sparsity.policy = "dynamic"
      [variants.thin]
      table.budget = 1.0
      "table.budget=0.5".model.width = 32   # only where the grid's table.budget is 0.5
      "table.budget=0.25".model.width = 16

    A run that fails does not stop the others; the exit code is then the highest of theirs.
    """
    from gcnrec.config.grid import load_grid
    from gcnrec.loaders.on_demand import DataRequest
    from gcnrec.pipeline import begun_or_ingested
    from gcnrec.reports.progress import runs_reported
    from gcnrec.sweep import sweep as train_all

    plan = load_grid(grid, set_)
    with _observed(False, log_json) as observer:
        request = DataRequest(plan.runs[0].job.data, plan.job_path, data, data_root, force)
        dataset = begun_or_ingested(request, [out / "runs" / run.name for run in plan.runs], observer)
    with working(), runs_reported(len(plan.runs), log_json) as report:
        ended = train_all(plan, dataset.folder, out, report=report, jobs=jobs)
    failed = [one for one in ended if one.code]
    output.show([f"{len(ended) - len(failed)} of {len(ended)} runs finished", f"{out}  (open {out / 'sweep.html'})"])
    if failed:
        what = f"{len(failed)} of {len(ended)} runs failed"
        output.end_with_failed(max(one.code for one in failed), what, out / "logs", log_json)


@app.command()
def info(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A dataset or a run folder.")],
    since: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Say what changed since this run: rows, files, settings, versions.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What a dataset or a run folder holds, or what changed since an earlier run."""
    from gcnrec.pipeline import describe
    from gcnrec.reports.text import change_lines, figure_lines

    if since is not None:
        from gcnrec.runs.changes import changes

        found = changes(since, path)
        output.show(
            {"since": str(since), "changes": [asdict(each) for each in found]} if as_json else change_lines(str(since), found)
        )
        return
    facts = describe(path)
    output.show(facts if as_json else figure_lines(facts))


@app.command()
def bench(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="sample, sample-large, propagate, gather, update, table, train-step, epoch, evaluate or ingest.",
        ),
    ],
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="A dataset folder; default: Gowalla's size, made up.")] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE.json", parser=place_to_write, help="Also write rows, command and machine here.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time ours and every peer in one run; exit code 4 when a required peer is absent."""
    from gcnrec.bench.catalogue import rows_of
    from gcnrec.bench.harness import write_record
    from gcnrec.reports.text import bench_line

    if record and record.exists():
        raise UsageError(f"{record} exists and is never overwritten; remove it or name another --record")
    rows = []
    with working():
        for row in rows_of(what, data):
            rows.append(row)
            print(json.dumps(row) if as_json else bench_line(row), flush=True)
        if record:
            write_record(record, shlex.join(["gcnrec", *sys.argv[1:]]), rows)
    if rows[-1]["speedup"] is None:
        absent = ", ".join(rows[-1]["absent"])
        raise DeviceError(f"bench {what} needs every required peer, absent: {absent}; {install('bench')}")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Versions, extras, devices, threads, memory and its limits; exits with the code that what is amiss would give a job."""
    from gcnrec.reports.text import figure_lines
    from gcnrec.system.doctor import examine

    facts = examine()
    output.show(facts if as_json else figure_lines(facts))
    raise typer.Exit(max((finding["exit_code"] for finding in facts["findings"]), default=0))


@contextmanager
def _observed(as_json: bool, log_json: bool = False, metric: str = "") -> Iterator[Observer]:
    from gcnrec.reports.progress import observed
    from gcnrec.system.kernel_cache import take_warnings

    with working(), observed(metric, as_json, log_json) as observer:
        for text in take_warnings():
            observer.warn(text)
        yield observer
