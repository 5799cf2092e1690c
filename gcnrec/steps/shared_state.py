"""Layers and their optimizer, from the leader to the other workers."""

from __future__ import annotations

import io

import torch

from gcnrec.workers.world import World


def share_layers(world: World, layers: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Give every worker the leader's weights and what its optimizer keeps of them. All workers call it together."""
    if world.rank == 0:
        file = io.BytesIO()
        torch.save((layers.state_dict(), optimizer.state_dict()), file)
        sent = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
        world.counts([len(sent)] * world.size)
        world.exchange(sent.repeat(world.size), [len(sent)] * world.size, [len(sent)] + [0] * (world.size - 1))
        return
    length, *_ = world.counts([0] * world.size)
    came = world.exchange(torch.empty(0, dtype=torch.uint8), [0] * world.size, [length] + [0] * (world.size - 1))
    # each worker has a device of its own, to which what is loaded is copied
    weights, state = torch.load(io.BytesIO(came.numpy().tobytes()), map_location="cpu", weights_only=True)
    layers.load_state_dict(weights)
    optimizer.load_state_dict(state)
