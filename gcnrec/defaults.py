"""Settings that follow from the data, for keys that a job leaves open: what suits one graph does not suit another.

Letters: U users, I items, E interactions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gcnrec.config import Job
from gcnrec.graph import BipartiteGraph

_LEAST_TEMPERATURE, _MOST_TEMPERATURE = 0.05, 0.5


@dataclass(frozen=True)
class Default:
    """A value for the key `section.name`, and why it is that."""

    section: str
    name: str
    value: float
    reason: str

    @property
    def line(self) -> str:
        """As people read it."""
        return f"{self.section}.{self.name} = {self.value:g}: {self.reason}"


def defaults(job: Job, graph: BipartiteGraph) -> tuple[Default, ...]:
    """The defaults that `graph` gives the open keys of `job`; none for a key that the job names or that changes nothing."""
    is_open = job.loss.name in ("softmax", "bsl") and job.loss.score == "cosine"
    if job.model.closed_form or not is_open or "temperature" in job.loss.model_fields_set:
        return ()
    return (_temperature(graph),)


def with_defaults(job: Job, graph: BipartiteGraph) -> Job:
    """`job` with its open keys as `defaults` has them."""
    for default in defaults(job, graph):
        section = getattr(job, default.section)
        job = job.model_copy(update={default.section: section.model_copy(update={default.name: default.value})})
    return job


def _temperature(graph: BipartiteGraph) -> Default:
    """1 / (1 + log(1 / density)), density = E / (U I), within 0.05 .. 0.5.

    A cosine at temperature t reaches logits up to 1/t. What they must reach is log p(i|u) / q(i) of a user's own items: with
    p = 1 / (E / U) and q = 1 / I for a typical pair that is log(U I / E), and 1 more tells liked items apart.
    """
    density = max(graph.num_edges, 1) / max(graph.num_users * graph.num_items, 1)
    value = 1.0 / (1.0 + math.log(1.0 / density))
    value = round(min(max(value, _LEAST_TEMPERATURE), _MOST_TEMPERATURE), 2)
    return Default("loss", "temperature", value, f"a user has a share of {density:.2g} of the items, 1 / (1 + log(1 / share))")
