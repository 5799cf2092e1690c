"""The check of a step on the device: the host learns one step later whether a step was good.

    device | judge t, update t unless bad | judge t+1, update t+1 unless bad |
    host   | give all that                | read t's verdict, give all that  |

The host waits only where it is a whole step ahead. A flag on the device, once set, stays. Where it is set, update rules and the
optimizer of layers leave everything as it is. So a bad step updates nothing, nor do steps that were given before the host knew:
table, state and layers stay as they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import torch

from gcnrec.device import Ops, Sent
from gcnrec.steps.guards import Gradients, Loss, diverged


@dataclass(frozen=True, slots=True)
class _Judged:
    """A step whose loss and flag are on their way, and what the bits of the flag stand for."""

    step: int
    sent: Sent
    names: list[str]


class Deferred:
    """`bad`, int32 (1) on the device, is what `RowGrad.bad` has; `layer_optimizer`, a fused one, is stopped too."""

    def __init__(self, ops: Ops, device: torch.device, layer_optimizer: torch.optim.Optimizer | None) -> None:
        self._ops, self.bad = ops, torch.zeros(1, dtype=torch.int32, device=device)
        self._stops: tuple[torch.Tensor, ...] = ()
        if layer_optimizer is not None:
            self._stops = (torch.zeros((), device=device),)
            layer_optimizer.found_inf = self._stops[0]  # type: ignore[attr-defined]
        self._judged: _Judged | None = None

    def judge(self, step: int, loss: torch.Tensor, gradients: Gradients) -> list[Loss]:
        """Flag a bad step; returns the loss of the step before."""
        tensors = [loss.detach(), *chain.from_iterable(gradients.values())]
        names = ["loss", *chain.from_iterable([name] * len(given) for name, given in gradients.items())]
        self._ops.flag_nonfinite(tensors, self.bad)
        for stop in self._stops:
            stop.copy_(self.bad[0] != 0)
        before, self._judged = self._judged, _Judged(step, self._ops.sent((tensors[0], self.bad)), names)
        return _losses_of(before)

    def settled(self) -> list[Loss]:
        """The loss of the last step that was judged. Waits where the device is not there yet: the host runs a step ahead."""
        last, self._judged = self._judged, None
        return _losses_of(last)


def _losses_of(judged: _Judged | None) -> list[Loss]:
    """The loss of a step, as soon as the host has it. DivergedError by the lowest bit of its flag."""
    if judged is None:
        return []
    value, bad = judged.sent.numbers()
    if bad:
        lowest = (int(bad) & -int(bad)).bit_length() - 1
        raise diverged(judged.step, value, f"the {judged.names[lowest]}")
    return [Loss(judged.step, value)]
