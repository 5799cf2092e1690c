"""What kernels may take of a multiprocessor, and how many loads each must have on its way: read from compiled code."""

from __future__ import annotations

from typing import NamedTuple

from jobs.measure.gpu.kernels.compiled import Compiled, Resources
from jobs.measure.gpu.kernels.sass import disassembled, loads_in_flight

MOST_REGISTERS = 85
"""Of a thread: three blocks of 256 threads fit into the 65,536 registers of a multiprocessor."""
MOST_SHARED_BYTES = 48 << 10
"""Of a block: what a launch may take without asking."""


class Flight(NamedTuple):
    """The `least` number of loads of a kind (its name in SASS) that a thread of a kernel has on their way together."""

    file: str
    kernel: str
    kind: str
    least: int


IN_FLIGHT = (
    Flight("slots.cu", "gcnrec_decode_float32", "LDGSTS.E.64", 16),
    Flight("slots.cu", "gcnrec_decode_bfloat16", "LDGSTS.E.64", 16),
    Flight("slots.cu", "gcnrec_decode_float32", "LDG.E.U8", 4),  # counts of records, without which none can be asked for
    Flight("slots.cu", "gcnrec_decode_float32", "LDG.E", 8),  # their locations and capacities
    Flight("gather.cu", "gcnrec_gather_16", "LDG.E.64", 4),  # row numbers
    Flight("gather.cu", "gcnrec_gather_16", "LDG.E.128", 4),
    Flight("gather.cu", "gcnrec_gather_shifted_16", "LDG.E.128", 4),
    Flight("gather.cu", "gcnrec_gather_4", "LDG.E", 4),
    Flight("spans.cu", "gcnrec_copy_spans_4", "LDG.E.128", 4),
    Flight("spans.cu", "gcnrec_copy_spans_4", "LDG.E.64", 8),
    Flight("spans.cu", "gcnrec_copy_spans_8", "LDG.E.128", 4),
    Flight("spans.cu", "gcnrec_patch", "LDG.E.128", 4),
    Flight("reduce.cu", "gcnrec_reduce_16", "LDG.E.128", 4),
    Flight("update.cu", "gcnrec_adam_float32", "LDG.E", 3),
    Flight("update.cu", "gcnrec_adam_row_float32", "LDG.E", 2),
    Flight("update.cu", "gcnrec_adagrad_row_float32", "LDG.E", 2),
    Flight("softmax.cu", "gcnrec_softmax_gradient", "LDG.E", 4),
    Flight("guard.cu", "gcnrec_flag_nonfinite", "LDG.E", 4),
)


def over_budget(file: str, kernels: dict[str, Resources]) -> list[str]:
    """Sentences on kernels that take too much."""
    found = []
    for kernel, own in kernels.items():
        limits = {
            "registers": (own.registers, MOST_REGISTERS), "bytes of local memory": (own.stack_bytes, 0),
            "bytes of spills": (own.spill_bytes, 0), "bytes of shared memory": (own.shared_bytes, MOST_SHARED_BYTES),
        }  # fmt: skip
        found += [f"{file} {kernel}: {value} {what}, at most {most}" for what, (value, most) in limits.items() if value > most]
    return found


def flights(tool: str, file: str, compiled: Compiled) -> list[tuple[Flight, int]]:
    """Loads on their way in the kernels of a file, as `IN_FLIGHT` names them, with the number that the code has."""
    wanted = [each for each in IN_FLIGHT if each.file == file]
    sass = disassembled(tool, compiled.cubin) if wanted and compiled.cubin else {}
    return [(each, loads_in_flight(sass[each.kernel], each.kind)) for each in wanted]


def short_flights(found: list[tuple[Flight, int]]) -> list[str]:
    """Sentences on kernels with fewer loads on their way than they must have."""
    return [
        f"{each.kernel}: {count} {each.kind} on their way, at least {each.least}" for each, count in found if count < each.least
    ]
