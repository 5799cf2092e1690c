"""Which column is the user, the item, the time, the kind of event and the rating, by names and by content, each with a reason.

Nothing is asked. What is chosen among several is said as a doubt, with the flag that decides otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gcnrec.draft import words
from gcnrec.draft.candidates import Found
from gcnrec.draft.contents import Column
from gcnrec.draft.kinds import behaviour_of, rating_of, taken_back
from gcnrec.draft.nodes import users_and_items
from gcnrec.draft.times import given_time, time_of
from gcnrec.errors import UsageError, nearest, shown


@dataclass(frozen=True, slots=True)
class Named:
    """The columns that flags name, and the values of the behaviour to predict."""

    user: str | None = None
    item: str | None = None
    time: str | None = None
    behaviour: str | None = None
    target: tuple[str, ...] | None = None
    rating: str | None = None


@dataclass(slots=True)
class Roles:
    """What is what. `doubts`: sentences about what was chosen among several, or left out, each with what to type."""

    user: Found
    item: Found
    time: Found | None = None
    time_unit: str | None = None
    behaviour: Found | None = None
    target: tuple[str, ...] = ()
    rating: Found | None = None
    weights: list[Column] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def found(self) -> dict[str, Found]:
        """The columns in use, by the keys of `[data]` that name them."""
        every = {"user": self.user, "item": self.item, "time": self.time, "behaviour": self.behaviour, "rating": self.rating}
        return {role: found for role, found in every.items() if found is not None}


def roles(text: str, columns: Sequence[Column], named: Named) -> Roles:
    """The roles of the `columns` of the input `text`.

    Raises DataError where no user or no item can be found, saying what was looked for; UsageError for flags that name no column.
    """
    doubts: list[str] = []
    given = _given(columns, named)
    free = [column for column in columns if column not in given.values()]
    time, unit = given_time(text, given["time"], doubts) if "time" in given else time_of(text, free, doubts)
    free = [column for column in free if time is None or column.path != time.path]
    behaviour, target = behaviour_of(free, given.get("behaviour"), named.target, doubts)
    free = [column for column in free if behaviour is None or column.path != behaviour.path]
    user, item = users_and_items(text, free, given, doubts)
    free = [column for column in free if column.path not in (user.path, item.path)]
    if "rating" in given and not given["rating"].has_range:
        raise UsageError(
            f"--rating must name numbers, {named.rating!r} holds {given['rating'].kind}; name another column or cast it"
        )
    rating = Found(given["rating"], "--rating names it") if "rating" in given else rating_of(free)
    rest = [column for column in free if rating is None or column.path != rating.path]
    weights = [column for column in rest if column.is_number and words.says_weight(column.path) and (column.low or 0.0) >= 0.0]
    doubts += taken_back(rest)
    return Roles(user, item, time, unit, behaviour, target, rating, weights, [column.path for column in rest], doubts)


def _given(columns: Sequence[Column], named: Named) -> dict[str, Column]:
    """The columns that flags name, by role; UsageError where one is absent, with the nearest, or has two roles."""
    flags = {"user": named.user, "item": named.item, "time": named.time, "behaviour": named.behaviour, "rating": named.rating}
    known = {column.path: column for column in columns}
    found: dict[str, Column] = {}
    for role, path in flags.items():
        if path is None:
            continue
        if path not in known:
            hint = nearest(path, known)
            raise UsageError(f"--{role} names {shown(path)}, which is no column of single values that can be read{hint}")
        twin = next((other for other, column in found.items() if column.path == path), None)
        if twin is not None:
            raise UsageError(f"--{twin} and --{role} name one column, {shown(path)}; name two")
        found[role] = known[path]
    return found
