"""A column that may have a role: why it was chosen, and which others would do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gcnrec.draft.contents import Column

CLEAR = 3
"""Points of a name from which on it says what a column is."""


@dataclass(frozen=True, slots=True)
class Found:
    """A column and why it is what it is taken for."""

    column: Column
    reason: str

    @property
    def path(self) -> str:
        return self.column.path


def clearest(columns: Sequence[Column], points: Callable[[str], int]) -> list[Column]:
    """The columns whose name is clear, the clearest first; equal ones in their order."""
    clear = [column for column in columns if points(column.path) >= CLEAR]
    return sorted(clear, key=lambda column: -points(column.path))


def doubt_others(role: str, chosen: Column, others: Sequence[Column], doubts: list[str]) -> None:
    """A doubt for columns that could have been chosen as well."""
    paths = [column.path for column in others if column.path != chosen.path]
    if paths:
        listed = ", ".join(map(repr, paths))
        doubts.append(f"{chosen.path!r} was taken for the {role}, and {listed} would fit as well; --{role} COLUMN decides")
