"""A whole table and its workers' rows n % W = r: how rows and state are dealt out, and come back.

Letters: N rows of the table, W workers, X stored values of rows, M moments, C floats of state of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.rows import RowNumbers
from gcnrec.tables.dealt.wire import DenseWire, SlotWire, Wire, as_slots
from gcnrec.tables.dense import DenseTable, StepTable
from gcnrec.tables.pipelined import HostTable
from gcnrec.tables.slots import SlotTable
from gcnrec.workers.world import World


class Shards(Protocol):
    """The rows of workers. All workers call `dealt` and `collected` together; `host` is the leader's whole table."""

    @property
    def num_rows(self) -> int: ...

    @property
    def width(self) -> int: ...

    def empty(self) -> StepTable:
        """A table without rows, until some are dealt out."""
        ...

    def dealt(self, world: World, host: HostTable | None) -> StepTable:
        """This worker's rows as a table of their own."""
        ...

    def collected(self, world: World, local: StepTable, host: HostTable | None) -> None:
        """Write all workers' rows into the leader's table."""
        ...


class RowShards(Shards, Protocol):
    """Shares of whole rows."""

    @property
    def wire(self) -> Wire:
        """How rows and their gradients travel in a step."""
        ...


@dataclass(frozen=True)
class DenseShards:
    """Rows of `width` values and `state_width` floats of state."""

    wire = DenseWire()

    num_rows: int
    width: int
    state_width: int

    def empty(self) -> DenseTable:
        return DenseTable(torch.empty(0, self.width), self.state_width)

    def dealt(self, world: World, host: HostTable | None) -> DenseTable:
        sizes = _sizes(self.num_rows, world.size)
        whole = {} if host is None else as_dense(host).tensors()
        forms = {"weights": torch.empty(0, self.width), "state": torch.empty(0, self.state_width), "last": torch.empty(0).int()}
        mine = {name: from_leader(world, _by_worker(whole.get(name), world.size), form, sizes) for name, form in forms.items()}
        start = torch.zeros(1, 1).expand(sizes[world.rank], self.width)
        table = DenseTable(start, self.state_width, numbers=RowNumbers(world.size, world.rank))
        table.restore(mine)
        return table

    def collected(self, world: World, local: StepTable, host: HostTable | None) -> None:
        sizes = _sizes(self.num_rows, world.size)
        for name, tensor in as_dense(local).tensors().items():
            came = to_leader(world, tensor, sizes)
            if host is not None:
                for worker, piece in enumerate(torch.split(came, sizes)):
                    as_dense(host).tensors()[name][worker :: world.size] = piece  # copy: into the whole table


@dataclass(frozen=True)
class SlotShards:
    """Rows of up to `width` stored values of `dtype`, with `moments` floats of state a value and `scalars` a row."""

    wire = SlotWire()

    num_rows: int
    width: int
    moments: int
    scalars: int
    dtype: str

    def empty(self) -> SlotTable:
        return self._table(0, 1, RowNumbers())

    def dealt(self, world: World, host: HostTable | None) -> SlotTable:
        sizes, whole = _sizes(self.num_rows, world.size), {} if host is None else as_slots(host).tensors()
        counts = from_leader(world, _by_worker(whole.get("counts"), world.size), torch.empty(0, dtype=torch.uint8), sizes)
        own = int(counts.sum())
        lengths = to_leader(world, torch.tensor([own]), [1] * world.size).tolist() or [own] * world.size
        order_X = None if host is None else torch.from_numpy(_value_order(whole["counts"].numpy(), world.size))
        mine = {"counts": counts}
        for name, form in self._rows().items():
            mine[name] = from_leader(world, _by_worker(whole.get(name), world.size), form, sizes)
        for name, form in self._values().items():
            values = None if order_X is None else _values_first(name, whole[name]).index_select(0, order_X)
            mine[name] = from_leader(world, values, form, lengths, own)
        mine["moments"] = mine["moments"].T.contiguous()
        table = self._table(sizes[world.rank], max(1, own), RowNumbers(world.size, world.rank))
        table.restore(mine)
        return table

    def collected(self, world: World, local: StepTable, host: HostTable | None) -> None:
        own, sizes = as_slots(local).tensors(), _sizes(self.num_rows, world.size)
        lengths = to_leader(world, torch.tensor([len(own["columns"])]), [1] * world.size).tolist()
        rows = {name: to_leader(world, own[name], sizes) for name in self._rows()}
        values = {name: to_leader(world, _values_first(name, own[name]), lengths) for name in self._values()}
        if host is None:
            return
        table = as_slots(host)
        whole, most = table.tensors(), (table.max_values_seen, table.peak_bytes)
        order_X = torch.from_numpy(_value_order(whole["counts"].numpy(), world.size))
        for name, tensor in rows.items():
            for worker, piece in enumerate(torch.split(tensor, sizes)):
                whole[name][worker :: world.size] = piece
        for name, tensor in values.items():
            _values_first(name, whole[name])[order_X] = tensor
        table.restore({**whole, "most": torch.tensor(most)})

    def _table(self, rows: int, values: int, numbers: RowNumbers) -> SlotTable:
        return SlotTable(rows, self.width, values, (self.moments, self.scalars), self.dtype, numbers=numbers)

    def _rows(self) -> dict[str, torch.Tensor]:
        """Tensors by row."""
        return {"scalars": torch.empty(0, self.scalars), "last": torch.empty(0, dtype=torch.int32)}

    def _values(self) -> dict[str, torch.Tensor]:
        """Tensors by stored value."""
        values = torch.empty(0, dtype=getattr(torch, self.dtype))
        return {"columns": torch.empty(0, dtype=torch.uint8), "values": values, "moments": torch.empty(0, self.moments)}


def _sizes(num_rows: int, size: int) -> list[int]:
    """Rows of each worker."""
    return [len(range(worker, num_rows, size)) for worker in range(size)]


def _by_worker(rows_N: torch.Tensor | None, size: int) -> torch.Tensor | None:
    """Rows in the order of their workers."""
    return None if rows_N is None else torch.cat([rows_N[worker::size] for worker in range(size)])  # copy: the whole plane


def _value_order(counts_N: NDArray[np.uint8], size: int) -> NDArray[np.int64]:
    """The places of stored values, row after row, in the order of the rows' workers."""
    ends_N = np.cumsum(counts_N, dtype=np.int64)
    rows_N = np.concatenate([np.arange(worker, len(counts_N), size) for worker in range(size)])
    counts = counts_N[rows_N].astype(np.int64)
    shifts = ends_N[rows_N] - np.cumsum(counts)
    return np.repeat(shifts, counts) + np.arange(counts.sum())


def _values_first(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Moments lie by moment, all else by value; a view by value."""
    return tensor.T if name == "moments" else tensor


def from_leader(
    world: World, whole: torch.Tensor | None, form: torch.Tensor, sizes: Sequence[int], own: int | None = None
) -> torch.Tensor:
    """The leader's rows, so many to each worker in turn; `form` has the shape and dtype of none of them."""
    outs = [0] * world.size if whole is None else list(sizes)
    ins = [sizes[world.rank] if own is None else own] + [0] * (world.size - 1)
    return world.exchange(form if whole is None else whole, outs, ins)


def to_leader(world: World, own: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """All workers' rows, in their order, on the leader; none elsewhere."""
    outs = [len(own)] + [0] * (world.size - 1)
    return world.exchange(own, outs, list(sizes) if world.rank == 0 else [0] * world.size)


def as_dense(table: object) -> DenseTable:
    """The table as what `DenseShards` makes."""
    if not isinstance(table, DenseTable):
        raise TypeError(f"a table of whole rows was expected, came {type(table).__name__}")
    return table
