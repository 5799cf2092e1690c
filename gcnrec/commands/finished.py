"""Commands that read a finished run: evaluate, recommend, similar, score, export, report."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from gcnrec.commands.observed import LogJson, observing
from gcnrec.console import output
from gcnrec.console.arguments import (
    AsJson,
    AttributesOf,
    BeyondAccuracy,
    Candidates,
    Diversity,
    ForItems,
    JudgedTable,
    MaxPer,
    MaxPerOf,
    MemoryLimit,
    NewItems,
    NewUsers,
    OutFile,
    Per,
    Replace,
    ReplaceExport,
    RunFolder,
    SeenInLists,
    SeenRule,
    Segment,
    ValueColumn,
    count,
    limits_per_column,
    place_or_address,
    refuse_with_for_items,
    source_or_address,
)
from gcnrec.errors import UsageError

TIMEOUT_MINUTES = 10.0
"""How long a worker that torchrun started waits for another that says nothing, as of `run.timeout_minutes`."""


def evaluate(
    run: RunFolder,
    split: Annotated[Literal["valid", "test"], typer.Option(metavar="valid|test", help="What to rank for.")] = "test",
    k: Annotated[str | None, typer.Option("--k", metavar="10,20,50", help="List lengths; default the job's.")] = None,
    segments: Annotated[
        Path | None, typer.Option(metavar="FILE", parser=source_or_address, help="Parquet of user id and segment.")
    ] = None,
    seen: SeenRule = None,
    beyond_accuracy: BeyondAccuracy = False,
    per: Per = None,
    value: ValueColumn = None,
    attributes: AttributesOf = None,
    lists: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=source_or_address, help="Judge these lists of another system, and leave the run as it is."
        ),
    ] = None,
    out: JudgedTable = None,
    force: Replace = False,
    memory_limit: MemoryLimit = None,
    as_json: AsJson = False,
    log_json: LogJson = False,
) -> None:
    """Rank all items for every held-out user; write metrics into the run folder, and its report.html anew if it has one."""
    from gcnrec.pipeline import list_lengths

    lengths = list_lengths(k)
    from gcnrec.commands.workers import leading
    from gcnrec.reports.run_report import refresh_report
    from gcnrec.reports.text import metric_lines
    from gcnrec.results.evaluate import Terms, evaluate_lists, evaluate_run
    from gcnrec.results.given.details import Details
    from gcnrec.results.given.lists import table_of
    from gcnrec.runs.folder import open_run

    details = Details(tuple(per or ()), value, attributes, beyond_accuracy)
    if lists is None and (out is not None or force):
        raise UsageError("--out and --force belong to --lists; metrics of the run go into its folder")
    with leading(None, TIMEOUT_MINUTES) as world, observing(as_json, log_json) as observer:
        if lists is None:
            opened = open_run(run, observer)
            metrics = evaluate_run(opened, split, lengths, segments, observer, memory_limit, seen, details, world)
            refresh_report(opened, observer)
        else:
            terms, table = Terms(split, lengths, seen), table_of(out, segments, force)
            metrics = evaluate_lists(open_run(run, observer), lists, table, terms, details, observer)
    output.show(metrics if as_json else metric_lines(metrics))


def recommend(
    run: RunFolder,
    out: OutFile,
    k: Annotated[int, typer.Option("--k", metavar="N", parser=count, help="Items per user.")] = 20,
    users: Annotated[Path | None, typer.Option(metavar="FILE", parser=source_or_address, help="Only these users.")] = None,
    items: Annotated[Path | None, typer.Option(metavar="FILE", parser=source_or_address, help="Rank only these items.")] = None,
    candidates: Candidates = None,
    exclude: Annotated[Path | None, typer.Option(metavar="FILE", parser=source_or_address, help="Leave these pairs out.")] = None,
    segment: Segment = None,
    for_items: ForItems = None,
    seen: SeenInLists = "all",
    fallback: Annotated[Literal["popularity"] | None, typer.Option(metavar="popularity", help="What unknown users get.")] = None,
    new_users: NewUsers = None,
    new_items: NewItems = None,
    max_per: MaxPer = None,
    attributes: MaxPerOf = None,
    diversity: Diversity = 0.0,
    force: Replace = False,
    memory_limit: MemoryLimit = None,
    as_json: AsJson = False,
    log_json: LogJson = False,
) -> None:
    """Write top-k lists: the original ids, rank from 1, score."""
    from gcnrec.commands.workers import leading
    from gcnrec.reports.text import figure_lines
    from gcnrec.results.given.request import RequestFiles
    from gcnrec.results.outputs import Output
    from gcnrec.results.recommend import ListOptions, write_recommendations
    from gcnrec.results.relisting import Relisting
    from gcnrec.results.shop.audience import AudienceFiles, AudienceOptions, audience
    from gcnrec.runs.folder import open_run

    relisting = Relisting(limits_per_column(max_per or []), attributes, diversity)
    with leading(None, TIMEOUT_MINUTES) as world, observing(as_json, log_json) as observer:
        opened, to = open_run(run, observer), Output(out, force)
        if for_items is not None:
            files = AudienceFiles(for_items, users, exclude, new_users, new_items)
            of_lists = {"--items": items, "--candidates": candidates, "--max-per": max_per, "--diversity": diversity}
            refuse_with_for_items(of_lists | {"--segment": segment})
            options = AudienceOptions(k, seen, fallback)
            made = asdict(audience(opened, files, options, to, memory_limit=memory_limit, observer=observer))
        else:
            wishes = ListOptions(k, seen, fallback, relisting)
            given = RequestFiles(users, items, candidates, exclude, new_users, new_items, attributes, segment)
            made = asdict(
                write_recommendations(opened, given, wishes, to, memory_limit=memory_limit, observer=observer, world=world)
            )
    output.show(made if as_json else figure_lines(made))


def similar(
    run: RunFolder,
    out: OutFile,
    k: Annotated[int, typer.Option("--k", metavar="N", parser=count, help="Length of a list.")] = 20,
    items: Annotated[str | None, typer.Option(metavar="FILE|all", help="Items that get a list; default all.")] = None,
    users: Annotated[str | None, typer.Option(metavar="FILE|all", help="Users that get a list, of users.")] = None,
    among: Annotated[Path | None, typer.Option(metavar="FILE", parser=source_or_address, help="Lists name only these.")] = None,
    exclude: Annotated[
        Path | None, typer.Option(metavar="FILE", parser=source_or_address, help="Leave these out, or these pairs.")
    ] = None,
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
    from gcnrec.results.similar import SimilarFiles, write_similar
    from gcnrec.runs.folder import open_run

    of_users = users is not None or new_users is not None
    if of_users and (items is not None or new_items is not None):
        raise UsageError("similar lists items of items, or users of users; give options of one of them")
    given, new = (users, new_users) if of_users else (items, new_items)
    files = SimilarFiles(None if given in (None, "all") else Path(given), among, exclude, new, every=given == "all")
    with observing(as_json, log_json) as observer:
        made = write_similar(
            open_run(run, observer),
            "user" if of_users else "item",
            k,
            Output(out, force),
            files,
            memory_limit=memory_limit,
            observer=observer,
        )
    output.show(asdict(made) if as_json else figure_lines(asdict(made)))


def score(
    run: RunFolder,
    pairs: Annotated[Path, typer.Option(metavar="FILE", parser=source_or_address, help="Pairs of user and item.")],
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
    from gcnrec.results.score import NewNodes, write_scores
    from gcnrec.runs.folder import open_run

    with observing(as_json, log_json) as observer:
        made = write_scores(
            open_run(run, observer), pairs, Output(out, force), seen=seen, new=NewNodes(new_users, new_items),
            memory_limit=memory_limit, observer=observer,
        )  # fmt: skip
    output.show(asdict(made) if as_json else figure_lines(asdict(made)))


def export(
    run: RunFolder,
    kind: Annotated[str, typer.Option("--format", metavar="faiss|bundle|parquet|int8|onnx|usearch", help="What to write.")],
    out: Annotated[
        Path, typer.Option(metavar="PATH", parser=place_or_address, help="The folder to write; for a bundle, the file.")
    ],
    index: Annotated[str | None, typer.Option(metavar="flat|hnsw", help="faiss: the index; default flat.")] = None,
    k: Annotated[
        int | None, typer.Option("--k", metavar="N", parser=count, help="faiss, usearch, int8: measure recall@N; default 20.")
    ] = None,
    force: ReplaceExport = False,
    as_json: AsJson = False,
) -> None:
    """Write what serving needs: an index of items, a safetensors bundle, embeddings, also as int8, or graphsage's encoder."""
    from gcnrec.reports.text import figure_lines
    from gcnrec.results.export import export as write
    from gcnrec.runs.folder import open_run

    with observing(as_json) as observer:
        made = write(open_run(run, observer), kind, out, index=index, k=k, force=force, observer=observer)
    output.show(made if as_json else figure_lines(made))


def report(run: RunFolder, as_json: AsJson = False) -> None:
    """Write the page of a run, report.html, and MODEL_CARD.md, from what its folder holds now; earlier ones are replaced."""
    from gcnrec.reports.run_report import write_report
    from gcnrec.runs.folder import open_run, writing

    with observing(as_json) as observer:
        opened = open_run(run, observer)
        with writing(opened.folder, observer):
            page = write_report(opened, observer)
    output.show({"report": str(page)} if as_json else [f"{page}  (open it in a browser)"])


COMMANDS = (evaluate, recommend, similar, score, export, report)
"""In the order of the help."""
