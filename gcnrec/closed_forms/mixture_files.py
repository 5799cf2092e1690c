"""The mixture of a run folder: what `mixture.json` says, and the partners' tensors in `mixture/<name>.safetensors`.

mixture.json is written when parts and weights are chosen, the tensors when the final model is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gcnrec.closed_forms import closed_form
from gcnrec.closed_forms.mixture import MixtureScorer, Part, Shares, Softmax
from gcnrec.errors import DataError
from gcnrec.graph import BipartiteGraph
from gcnrec.ranking.scorer import Scorer

FILE = "mixture.json"
_LARGEST = 1e30


@dataclass(frozen=True)
class Mixture:
    """The score is `weight` * P + the sum of `partners`' weights * Q; P is taken at `temperature`.

    `chosen` says how, by means over users of validation.
    """

    weight: float
    temperature: float
    partners: dict[str, float]
    chosen: dict[str, Any]

    @property
    def name(self) -> str:
        """As reports have it, such as `0.5 trained + 1 linkprop`."""
        return " + ".join(f"{weight:g} {name}" for name, weight in {"trained": self.weight, **self.partners}.items())

    def saved(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"name": self.name, **asdict(self)}

    @classmethod
    def of(cls, saved: dict[str, Any], path: Path) -> Mixture:
        """What `saved` gave, from `path`. DataError when something is missing or no number that a mixture can have."""
        try:
            partners = {name: _number(weight) for name, weight in dict(saved["partners"]).items()}
            mixture = cls(_number(saved["weight"]), _number(saved["temperature"]), partners, dict(saved["chosen"]))
        except (KeyError, TypeError, ValueError) as problem:
            raise DataError(f"{path} must hold weights and a temperature ({problem!r}); it is damaged, train again") from None
        unknown = [name for name in partners if name not in closed_form.NAMES]
        if unknown or mixture.temperature <= 0.0:
            wrong = f"partner {unknown[0]!r}" if unknown else f"temperature {mixture.temperature}"
            raise DataError(f"{path} must hold known partners and a positive temperature, got {wrong}; train again")
        return mixture


def _number(value: object) -> float:
    """A weight or a temperature. ValueError unless it is a number of at least 0 that float32 holds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= _LARGEST:
        raise ValueError(f"{value!r} is no weight")
    return float(value)


def partner_path(folder: Path, name: str) -> Path:
    """Where the tensors of partner `name` lie in a run folder."""
    return folder / "mixture" / f"{name}.safetensors"


def load_partners(mixture: Mixture, folder: Path, graph: BipartiteGraph) -> dict[str, Scorer]:
    """The mixture's partners by name, mapped from the run's `folder`; `graph`: what the final model was trained on.

    DataError when a partner's file is missing or damaged.
    """
    return {name: closed_form.load_partner(name, graph, partner_path(folder, name)) for name in mixture.partners}


def mixture_scorer(mixture: Mixture, trained: Scorer, partners: Mapping[str, Scorer]) -> Scorer:
    """Ranks by the mixture of `trained` and its partners; by `trained` alone where there are none."""
    if not mixture.partners:
        return trained
    parts: tuple[Part, ...] = (Softmax(trained, mixture.temperature), *(Shares(partners[name]) for name in mixture.partners))
    return MixtureScorer(parts, (mixture.weight, *mixture.partners.values()))
