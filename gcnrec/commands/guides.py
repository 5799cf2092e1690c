"""Commands for whoever begins: init, settings, models."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gcnrec.commands.observed import observing
from gcnrec.console import output
from gcnrec.console.arguments import AsJson, place_to_write


def init(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Parquet of interactions: a file, folder, glob or URI.")],
    out: Annotated[
        Path, typer.Option(metavar="PATH", parser=place_to_write, help="The job to write, or its folder; default job.toml.")
    ] = Path(),
    user: Annotated[str | None, typer.Option(metavar="COLUMN", help="User ids, if the guess is wrong.")] = None,
    item: Annotated[str | None, typer.Option(metavar="COLUMN", help="Item ids, if the guess is wrong.")] = None,
    time: Annotated[str | None, typer.Option(metavar="COLUMN", help="When it happened, if the guess is wrong.")] = None,
    behaviour: Annotated[str | None, typer.Option(metavar="COLUMN", help="What was done, if the guess is wrong.")] = None,
    target: Annotated[str | None, typer.Option(metavar="VALUE[,VALUE]", help="The behaviour to predict.")] = None,
    rating: Annotated[str | None, typer.Option(metavar="COLUMN", help="Ratings, if the guess is wrong.")] = None,
    item_features: Annotated[
        str | None, typer.Option(metavar="PATH", help="Item features by item id; graphsage reads them.")
    ] = None,
    user_features: Annotated[str | None, typer.Option(metavar="PATH", help="User features by user id.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look at your Parquet, write a commented job for it, say why, and what to type next; overwrites nothing."""
    from gcnrec.draft.choices import Features
    from gcnrec.draft.from_parquet import drafted, place_of, refuse_existing, write_new
    from gcnrec.draft.roles import Named
    from gcnrec.pipeline import RUNS, run_folder
    from gcnrec.reports.guides import draft_figures, draft_lines

    place = place_of(out)
    refuse_existing(place)
    values = tuple(part.strip() for part in target.split(",")) if target else None
    with observing(as_json) as observer:
        named, features = Named(user, item, time, behaviour, values, rating), Features(user_features, item_features)
        made = drafted(data, named, features=features, look=observer.work)
        write_new(place, made.job)
    run = run_folder(RUNS, made.name, None, resume=False)
    output.show(draft_figures(made, place, run) if as_json else draft_lines(made, place, run))


def settings(
    key: Annotated[str | None, typer.Argument(metavar="KEY", help="section.key, a section, or a key; default all.")] = None,
    as_json: AsJson = False,
) -> None:
    """The keys of a job file: what each accepts, its default and its meaning."""
    from gcnrec.config.reference import sections
    from gcnrec.config.reference import settings as found
    from gcnrec.reports.guides import setting_lines

    every = found(key)
    if as_json:
        output.show({"settings": [{**asdict(setting), "meaning": setting.meaning} for setting in every]})
        return
    output.show(setting_lines(every, sections()))


def models(as_json: AsJson = False) -> None:
    """Which model to choose when."""
    from gcnrec.draft.models import MODELS
    from gcnrec.reports.guides import model_lines

    output.show({"models": [asdict(advice) for advice in MODELS]} if as_json else model_lines())


COMMANDS = (init, settings, models)
"""In the order of the help."""
