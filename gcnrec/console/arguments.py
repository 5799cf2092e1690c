"""What options of the command line take: numbers in plain digits, places to write to, and options of several commands.

Each refusal is typer.BadParameter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from gcnrec.errors import UsageError, shown
from gcnrec.storage.remote.address import Address, address_of

_MAX_PER = "'--max-per'"


def integer(text: str | int) -> int:
    """A whole number in plain digits: int() also takes 1_0, and digits of other scripts."""
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", str(text)):
        raise typer.BadParameter(f"expected a whole number in the digits 0 to 9, at most 19 of them, got {shown(text)}")
    return int(text)


def count(text: str | int) -> int:
    """A whole number from 1 on."""
    number = integer(text)
    if number < 1:
        raise typer.BadParameter(f"expected 1 or more, got {number}")
    return number


def number(text: str | float) -> float:
    """A decimal number in plain digits, neither infinite nor nan."""
    if not re.fullmatch(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]{1,2})?", str(text).lower(), re.ASCII):
        raise typer.BadParameter(f"expected a number in the digits 0 to 9, got {shown(text)}")
    return float(text)


def limits_per_column(texts: list[str]) -> dict[str, int]:
    """Numbers from 1 on by column, from `COLUMN=N`."""
    found: dict[str, int] = {}
    for text in texts:
        column, equals, most = text.rpartition("=")
        if not (column and equals):
            raise typer.BadParameter(f"expected COLUMN=N, such as category=3, got {shown(text)}", param_hint=_MAX_PER)
        if column in found:
            raise typer.BadParameter(f"{shown(column)} comes twice; give one number for it", param_hint=_MAX_PER)
        try:
            found[column] = count(most)
        except typer.BadParameter as problem:
            raise typer.BadParameter(problem.message, param_hint=_MAX_PER) from None
    return found


def refuse_with_for_items(given: Mapping[str, object]) -> None:
    """UsageError for an option, by name, that says what lists of items hold: `--for-items` makes lists of users."""
    option = next((option for option, value in given.items() if value), None)
    if option is not None:
        raise UsageError(f"--for-items lists users, and {option} says what lists of items hold; leave one of them out")


def place_to_write(text: str | Path) -> Path:
    """Where to write: on this machine, without a step up from a folder that is not there, which making it would leave behind."""
    path = Path(text)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", str(text)):
        raise typer.BadParameter(f"expected a path of this machine, got the address {shown(str(text))}; write here, then copy")
    above = [Path(*path.parts[:at]) for at, part in enumerate(path.parts) if at and part == ".."]
    absent = next((folder for folder in above if not folder.is_dir()), None)
    if absent is not None:
        raise typer.BadParameter(f"{shown(str(text))} goes up from {absent}, which is no folder; write the path without ..")
    return path


def place_or_address(text: str | Path) -> Path | Address:
    """Where to write: as `place_to_write`, or an address, which `gcnrec.commands.remote` turns into a path of this machine."""
    return address_of(str(text)) or place_to_write(text)


def source_or_address(text: str | Path) -> Path | Address:
    """What to read: a path, or an address, which `gcnrec.commands.remote` fetches."""
    return address_of(str(text)) or Path(text)


JobFile = Annotated[Path, typer.Argument(metavar="JOB.toml", help="The job file.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", parser=source_or_address, help="A run folder, or its address.")]
DataFolder = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", parser=source_or_address, help="A dataset folder; default: ingest [data]."),
]
DataRoot = Annotated[Path | None, typer.Option(metavar="DIR", help="Where the files of a card lie.")]
WhereTest = Annotated[
    str | None, typer.Option(metavar="SQL", help="The same for --test and --valid; without it, --where if it fits.")
]
SplitBy = Annotated[str | None, typer.Option(metavar="given|random|leave_last|temporal|cold_items", help="How test is held out.")]
PartitionType = Annotated[
    list[str] | None, typer.Option(metavar="KEY=TYPE", help="Type of key=value folders, such as user=int64; ids are text.")
]
BehaviourColumn = Annotated[str | None, typer.Option(metavar="COLUMN", help="What was done: view, cart, buy.")]
Target = Annotated[str | None, typer.Option(metavar="VALUE[,VALUE]", help="The behaviour to predict.")]
KeepOther = Annotated[bool | None, typer.Option("--keep-other", help="Keep other behaviours of pairs that a split draws.")]
NumberedPairs = Annotated[
    str | None, typer.Option("--numbered", metavar="DIR", help="Pairs that an engine numbered, in place of --train.")
]
TestUntil = Annotated[str | None, typer.Option(metavar="TIME", help="temporal: rows from then on are left out.")]
DecayDays = Annotated[float | None, typer.Option(metavar="DAYS", parser=number, help="An interaction this old weighs half.")]
WeightLog = Annotated[bool | None, typer.Option("--weight-log", help="A weight w becomes log(1 + w).")]
KCore = Annotated[
    int | None, typer.Option(metavar="N", parser=integer, help="Drop nodes with fewer interactions, to a fixpoint.")
]
FeaturesText = Annotated[
    str | None, typer.Option(metavar="COLUMN[,COLUMN]", help="Feature columns whose text is cut into words.")
]
FeatureWeights = Annotated[
    list[str] | None, typer.Option(metavar="COLUMN=X", help="Scales the features of a column; 0 leaves it out.")
]
TextWidth = Annotated[int | None, typer.Option(metavar="N", parser=integer, help="Columns that lists of words become at most.")]
ValidSize = Annotated[float | None, typer.Option(metavar="F", parser=number, help="Share of train held out for validation.")]
TestSize = Annotated[float | None, typer.Option(metavar="F", parser=number, help="Share held out for test.")]
WarmSize = Annotated[float | None, typer.Option(metavar="F", parser=number, help="cold_items: share of warm pairs held out too.")]
MinRating = Annotated[float | None, typer.Option(metavar="X", parser=number, help="Keep ratings of at least this.")]
NegativeBelow = Annotated[float | None, typer.Option(metavar="X", parser=number, help="Lower ratings are negative pairs.")]
Seed = Annotated[int | None, typer.Option(metavar="N", parser=integer, help="Seed of the split.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY.SUB=VALUE", help="Override a key of the job.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")]
Workers = Annotated[int | None, typer.Option("--workers", metavar="N", help="Processes that train together; default 1.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and no progress.")]
MemoryLimit = Annotated[str | None, typer.Option(metavar="SIZE", help="Memory to use, mapped files apart, for example 2GB.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the dataset that --out names.")]
OutFile = Annotated[
    Path, typer.Option("--out", metavar="FILE", parser=place_or_address, help="The file to write: .parquet, .csv or .jsonl.")
]
SeenRule = Annotated[
    Literal["target", "all", "none"] | None,
    typer.Option("--seen", metavar="target|all|none", help="What lists leave out; default the job's evaluate.seen."),
]
JudgedTable = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", parser=place_or_address, help="With --lists: metrics of each user, for compare."),
]
BeyondAccuracy = Annotated[bool, typer.Option("--beyond-accuracy", help="Add diversity and serendipity of the lists.")]
Per = Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="Add recall by a column of --attributes.")]
ValueColumn = Annotated[str | None, typer.Option("--value", metavar="COLUMN", help="Weight by a column of --attributes.")]
AttributesOf = Annotated[
    Path | None, typer.Option("--attributes", metavar="FILE", parser=source_or_address, help="Items with these columns.")
]
ForItems = Annotated[
    Path | None,
    typer.Option(
        "--for-items", metavar="FILE", parser=source_or_address, help="List the users most likely to take each of these items."
    ),
]
Segment = Annotated[
    str | None, typer.Option("--segment", metavar="COLUMN", help="A user gets --items of the same value as in --users.")
]
SeenInLists = Annotated[
    Literal["all", "met", "train", "none"],
    typer.Option("--seen", metavar="all|met|train|none", help="What to leave out as seen."),
]
MaxPer = Annotated[
    list[str] | None,
    typer.Option("--max-per", metavar="COLUMN=N", help="At most N items of one value in a list; see --attributes."),
]
MaxPerOf = Annotated[
    Path | None,
    typer.Option("--attributes", metavar="FILE", parser=source_or_address, help="Items with the columns of --max-per."),
]
Candidates = Annotated[
    Path | None,
    typer.Option("--candidates", metavar="FILE", parser=source_or_address, help="Rank, per user, only these pairs."),
]
Diversity = Annotated[float, typer.Option(metavar="F", parser=number, help="0: by score; above, items unlike each other.")]
NewUsers = Annotated[
    Path | None, typer.Option(metavar="FILE", parser=source_or_address, help="Pairs of user and item, also of new users.")
]
NewItems = Annotated[
    Path | None, typer.Option(metavar="FILE", parser=source_or_address, help="Items new to the run, by their features.")
]
Replace = Annotated[bool, typer.Option("--force", help="Replace the file that --out names.")]
ReplaceExport = Annotated[bool, typer.Option("--force", help="Replace the export that --out names.")]
IngestAgain = Annotated[bool, typer.Option("--force", help="Ingest [data] again, also over its folder.")]


def named_values(texts: list[str], flag: str, example: str) -> dict[str, str]:
    """`user=int64` as a name and its value; `example` is one of what `flag` expects."""
    for text in texts:
        if not all(text.rpartition("=")):
            raise UsageError(f"{flag} expects {example}, got {text!r}")
    return {text.rpartition("=")[0]: text.rpartition("=")[2] for text in texts}
