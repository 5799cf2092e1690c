"""A kernel gives the same bits whether this process compiled it or found it in numba's cache: a resumed run must equal the run
that was stopped, and the first run after an installation those after it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUMS = """
import hashlib
import numpy as np, torch
from gcnrec.ops import update
from gcnrec.ops.softmax import _softmax_gradient, softmax_gradient_
from gcnrec.rows import AdamSettings, RowGrad, Rows, State, Ticket

rng = np.random.default_rng(0)
logits = torch.from_numpy((3 * rng.standard_normal((64, 203))).astype(np.float32))
losses = softmax_gradient_(logits, rng.integers(0, 203, 64))
rows, width = 50, 30
numbers = np.arange(rows)
index, count = torch.from_numpy(numbers), torch.full((rows,), width)
ticket = Ticket(numbers)
grad = RowGrad(ticket, torch.from_numpy(rng.standard_normal(rows * width).astype(np.float32)), index * width)
weights = [np.ones(rows * width, np.float32) for _ in range(2)]
state = [np.zeros(rows * (width + 1), np.float32), np.zeros(rows, np.float32)]
last = torch.zeros(rows, dtype=torch.int32)
chosen = [
    Rows(ticket, index, torch.from_numpy(w), index * width, count, State(torch.from_numpy(s), index * (len(s) // rows), last))
    for w, s in zip(weights, state, strict=True)
]
update.adam_row(chosen[0], grad, 1, 0.01, AdamSettings(0.9, 0.999, 1e-8))
update.adagrad_row(chosen[1], grad, 1, 0.01, 1e-8)
for array in (logits.numpy(), losses, *weights, *state):
    print(hashlib.sha256(array.tobytes()).hexdigest())
print("compiled:", sum(sum(f.stats.cache_misses.values()) for f in (_softmax_gradient, update._adam_row, update._adagrad_row)))
"""


@pytest.mark.slow
def test_sums_do_not_depend_on_who_compiled_them(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SUMS]
    shown = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split("\n") for _ in range(2)
    ]
    assert [each[-2] for each in shown] == ["compiled: 3", "compiled: 0"]
    assert shown[0][:-2] == shown[1][:-2]


@pytest.mark.parametrize("path", sorted((ROOT / "gcnrec").rglob("*.py")), ids=lambda path: path.stem)
def test_no_kernel_lets_the_compiler_choose_the_order_of_a_sum(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for keyword in getattr(node, "keywords", []):
            if keyword.arg == "fastmath":
                flags = ast.literal_eval(keyword.value)
                assert isinstance(flags, set) and not flags & {"reassoc", "fast"}, f"{path.name}:{node.lineno}"
