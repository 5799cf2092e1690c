"""Your own numba.cuda kernel on a table that stays in host memory: it reads rows over PCIe, and nothing copies the table.

    python jobs/examples/numba_kernel.py                              on a GPU
    NUMBA_ENABLE_CUDASIM=1 python jobs/examples/numba_kernel.py       in numba's simulator, anywhere

Letters: N rows of the table, P floats from one row to the next, R rows to read, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import config, cuda

from gcnrec.cuda.hostmemory import allocate
from gcnrec.cuda.pinned import PinnedArray, PinnedMemory

SIMULATED = bool(config.ENABLE_CUDASIM)
N, D, P = 10_000, 20, 32  # rows start on the 128-byte lines in which a GPU reads host memory
R, THREADS = (8, 32) if SIMULATED else (1 << 18, 256)


@cuda.jit
def gather(rows_NP, index_R, out_RD):
    """out[r] = rows[index[r]]: neighbouring threads read neighbouring values, so that a row is one request."""
    at = cuda.grid(1)
    if at < out_RD.size:
        r, d = at // out_RD.shape[1], at % out_RD.shape[1]
        out_RD[r, d] = rows_NP[index_R[r], d]


def read(rows_NP: PinnedArray | np.ndarray, index_R: np.ndarray) -> np.ndarray:
    """The rows, gathered by the kernel. Anything with `__cuda_array_interface__` is an argument as it is."""
    out_RD = cuda.device_array((len(index_R), D), np.float32)
    gather[-(-out_RD.size // THREADS), THREADS](rows_NP, cuda.to_device(index_R), out_RD)
    return out_RD.copy_to_host()  # synchronize: the result is read on the host


def compare(rows_NP: PinnedArray | np.ndarray, host_NP: np.ndarray) -> str:
    host_NP[:] = np.random.default_rng(7).standard_normal((N, P), np.float32)
    index_R = np.random.default_rng(8).integers(0, N, R)
    expected_RD = torch.from_numpy(host_NP)[torch.from_numpy(index_R), :D].numpy()
    verdict = "equal to" if np.array_equal(read(rows_NP, index_R), expected_RD) else "DIFFERENT from"
    kind = "simulated" if SIMULATED else "pinned"
    return f"{R:,} rows gathered from {host_NP.nbytes:,} bytes of {kind} memory, {verdict} torch's"


if __name__ == "__main__":
    memory = allocate(N * P * 4)
    if SIMULATED:
        host_NP = memory.content.view(np.float32).reshape(N, P)
        print(compare(host_NP, host_NP))
    else:
        with PinnedMemory(memory) as pinned:
            array_NP = pinned.array((N, P), np.float32)
            print(compare(array_NP, array_NP.host))
