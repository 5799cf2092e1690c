"""Files against a list of their sizes and digests, before anything of them is used. This finds damage; it is no signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from gcnrec.errors import DataError
from gcnrec.integrity.digests import State, hashed, state_of
from gcnrec.integrity.facts import established, file_fact, recalled, remember
from gcnrec.storage.documents import Document

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(strict=True, ge=0, lt=2**63)]


class Listed(Document):
    """What a document says of a file; `bytes` is its size."""

    bytes: Count
    sha256: Sha256


def verify(files: Mapping[Path, Listed], by: str, remedy: Callable[[Path], str], anew: bool = False) -> None:
    """Raise DataError unless each file has the size and the sha256 that the document called `by` lists.

    A file of which this user remembers that is not read again. `anew`: only what this process has read itself counts, as a disk
    can lose bytes without a change of any time. `remedy`: what helps where a file is another. Reads on at most two threads.
    """
    known = established() if anew else recalled()
    unknown = [path for path, listed in files.items() if file_fact(_state(path, listed, remedy), listed.sha256) not in known]
    learnt, wrong = [], None
    for path, found in zip(unknown, hashed(unknown, remedy), strict=True):
        if found.sha256 != files[path].sha256:
            wrong = wrong or path
        elif found.state is not None:
            learnt.append(file_fact(found.state, found.sha256))
    remember(learnt)
    if wrong is not None:
        raise DataError(f"{wrong} does not match the sha256 in {by}, it has changed since; {remedy(wrong)}")


def _state(path: Path, listed: Listed, remedy: Callable[[Path], str]) -> State:
    state = state_of(path, remedy)
    if state.size != listed.bytes:
        raise DataError(f"{path} must have {listed.bytes} bytes, has {state.size}; {remedy(path)}")
    return state
