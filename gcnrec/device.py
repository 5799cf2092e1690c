"""Kernels by the place of tensors: the functions that training needs of a device. The only importer of `gcnrec.cuda`.

Both devices take and return tensors. Integers are equal on both; floats differ by rounding.
Letters: P rows of a plane, R rows, C columns, B entries, D width, X stored values, K counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import DeviceError, install
from gcnrec.graph import Csr
from gcnrec.queues import Device
from gcnrec.rows import Entries, Rules
from gcnrec.system.affinity import cores_near


class Product(Protocol):
    """The 0/1 matrix of a Csr with R rows and C columns, in the form in which a device multiplies by it."""

    def times(self, source_CD: torch.Tensor, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor) -> torch.Tensor:
        """out[r] = row_scale[r] * sum over c in row r of column_scale[c] * source[c]."""
        ...

    def transposed_times(self, grad_RD: torch.Tensor, row_scale_R: torch.Tensor, column_scale_C: torch.Tensor) -> torch.Tensor:
        """The transpose: out[c] = column_scale[c] * sum over rows r with c of row_scale[r] * grad[r]."""
        ...


class Sent(Protocol):
    """Numbers on their way to the host."""

    def numbers(self) -> list[float]:
        """One from each tensor. Waits where they are not there yet."""
        ...


class Ops(Protocol):
    """The kernels of a training step, on one device."""

    @property
    def rules(self) -> Rules: ...

    def pack(self, arrays: Sequence[NDArray[Any]]) -> Any:
        """Host arrays as `upload` takes them: themselves on the CPU, one piece of pinned memory for a GPU. Any thread may ask."""
        ...

    def upload(self, packed: Any) -> tuple[torch.Tensor, ...]:
        """What was packed, where kernels can read it: the arrays' memory on the CPU, one copy on a GPU, without a wait for it.

        Work of the current queue is behind the copy; what is packed is uploaded once.
        """
        ...

    def sent(self, tensors: Sequence[torch.Tensor]) -> Sent:
        """Begin to bring tensors of one number each to the host, as they are now."""
        ...

    def flag_nonfinite(self, tensors: Sequence[torch.Tensor], bad: torch.Tensor) -> None:
        """Set bit i (at most 30) of `bad`, int32 (1), where a float32 tensor i holds a number that is not finite."""
        ...

    def gather(self, plane_PD: torch.Tensor, index_R: torch.Tensor) -> torch.Tensor:
        """out[r] = plane[index[r]]."""
        ...

    def reduce_rows(self, entries: Entries[torch.Tensor], grad_BD: torch.Tensor) -> torch.Tensor:
        """out[r] = sum of grad[b] over the entries b of row r, in rising order of b."""
        ...

    def scored_at_once(self, candidates: int) -> int:
        """How many users a loss scores against so many candidates at a time."""
        ...

    def softmax_gradient_(self, logits_CJ: torch.Tensor, goal_C: torch.Tensor) -> torch.Tensor:
        """Turn logits into softmax minus 1 at `goal`, in place; returns -log softmax[goal], (C)."""
        ...

    def edges(self, csr: Csr) -> Any:
        """What `product` needs of a matrix, as arrays of the host. Any thread may ask, and others go on meanwhile."""
        ...

    def product(self, edges: Any) -> Product:
        """The matrix whose `edges` were uploaded."""
        ...

    def slots(
        self,
        location_R: torch.Tensor,
        count_R: torch.Tensor,
        values: torch.Tensor,
        columns: torch.Tensor,
        capacity_K: torch.Tensor,
    ) -> Any:
        """Records as `decode` and `pick` take them (`gcnrec.ops.slots.Slots`); `location_R` int32 bits of a uint32."""
        ...

    def decode(self, slots: Any, rows_R: torch.Tensor, out_RD: torch.Tensor) -> None: ...

    def pick(self, slots: Any, rows_R: torch.Tensor, tile_RD: torch.Tensor, at_R: torch.Tensor, out_X: torch.Tensor) -> None: ...

    def features(self, values: torch.Tensor, pitch: int, width: int, dtype: str, grid: tuple[torch.Tensor, ...] | None) -> Any:
        """Rows as `read_features` takes them (`gcnrec.ops.features.Stored`)."""
        ...

    def read_features(self, stored: Any, index_R: torch.Tensor | None, out_RF: torch.Tensor) -> None:
        """out[r] = stored row index[r] as float32, or row r without an index."""
        ...


@cache
def ops_for(device: torch.device) -> Ops:
    """The kernels of a device. DeviceError for a GPU without CuPy."""
    if device.type == "cpu":
        from gcnrec.ops.cpu import CpuOps

        return CpuOps()
    from gcnrec.cuda.ops import CudaOps

    return CudaOps(device)


def uploaded(prepared: Any, ops: Ops) -> Any:
    """`prepared` with tensors in the places of its arrays, by one upload: arrays, and tuples of such, named or not.

    What else is in it, such as sizes and None, stays.
    """
    return with_tensors(prepared, iter(ops.upload(ops.pack(arrays_of(prepared)))))


def arrays_of(prepared: Any) -> list[NDArray[Any]]:
    """The arrays of `uploaded`'s argument, in their order."""
    if isinstance(prepared, np.ndarray):
        return [prepared]
    return [array for part in prepared for array in arrays_of(part)] if isinstance(prepared, tuple) else []


def with_tensors(prepared: Any, tensors: Iterator[torch.Tensor]) -> Any:
    """`prepared` with the next of `tensors` in the place of each array."""
    if isinstance(prepared, np.ndarray):
        return next(tensors)
    if not isinstance(prepared, tuple):
        return prepared
    parts = [with_tensors(part, tensors) for part in prepared]
    return type(prepared)(*parts) if hasattr(prepared, "_fields") else tuple(parts)


def gpu() -> torch.device:
    """The GPU to train on. DeviceError without one, or without CuPy."""
    _require_gpu()
    return torch.device("cuda", torch.cuda.current_device())


def _require_gpu() -> None:
    if not torch.cuda.is_available():
        raise DeviceError(
            "train.device = 'cuda' needs an NVIDIA GPU, its driver and a torch built for CUDA, and torch sees none; "
            "run `gcnrec doctor`, or set train.device = 'cpu'"
        )
    if find_spec("cupy") is None:
        raise DeviceError(
            f"train.device = 'cuda' needs CuPy, which is not installed; {install('gpu')}, or set train.device = 'cpu'"
        )


def take_gpu(place: int, workers: int) -> torch.device:
    """Make GPU `place` of this host the GPU of this process, which is one of `workers` here.

    DeviceError without a GPU or CuPy, and for fewer GPUs than workers.
    """
    _require_gpu()
    count = torch.cuda.device_count()
    if max(place + 1, workers) > count:
        raise DeviceError(
            f"each of the workers of this host ({workers}) needs a GPU of its own, and number {place} from 0 sees {count}; start "
            "as many workers as GPUs (CUDA_VISIBLE_DEVICES hides some), or set train.device = 'cpu'"
        )
    torch.cuda.set_device(place)  # before anything else: a process that has used GPU 0 holds memory there
    return torch.device("cuda", place)


def cores_of(device: torch.device) -> frozenset[int]:
    """The cores near a GPU; none where torch or the system does not say."""
    facts: Any = torch.cuda.get_device_properties(device)
    if not hasattr(facts, "pci_bus_id"):  # a torch that does not know it
        return frozenset()
    return cores_near(f"{facts.pci_domain_id:04x}:{facts.pci_bus_id:02x}:{facts.pci_device_id:02x}.0")


def pinnable(length: int) -> torch.Tensor:
    """Zeros, float32 (length), of host memory that a GPU's driver pins fast: in huge pages, which no child process gets."""
    from gcnrec.cuda.hostmemory import reserve

    return torch.from_numpy(reserve(4 * length).content.view(np.float32))


def pipeline_of(
    device: torch.device, transfer_blocks: int | None = None, on_file: bool = False, warn: Callable[[str], object] | None = None
) -> Device:
    """The queues of a GPU, for tables in host memory.

    `transfer_blocks` caps the grid of transfers; by default the best cap on this machine, measured once and remembered.
    `on_file`: tables lie in mapped files. `warn` receives the reason where the host copies rows instead.
    """
    from gcnrec.cuda.queues import CudaDevice
    from gcnrec.cuda.tuning import transfer_blocks as measured_blocks
    from gcnrec.ops.slots import copy_spans

    return CudaDevice(device, copy_spans, transfer_blocks or measured_blocks(device), on_file, warn or (lambda reason: None))
