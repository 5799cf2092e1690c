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

rng = np.random.default_rng(0)
logits = torch.from_numpy((3 * rng.standard_normal((64, 203))).astype(np.float32))
losses = softmax_gradient_(logits, rng.integers(0, 203, 64))
rows, width = 50, 30
at, count, numbers = np.arange(rows) * width, np.full(rows, width), np.arange(rows)
grad, rate, tiny = rng.standard_normal(rows * width).astype(np.float32), np.float32(0.01), np.float32(1e-8)
weights = [np.ones(rows * width, np.float32) for _ in range(2)]
state = [np.zeros(rows * (width + 1), np.float32), np.zeros(rows, np.float32)]
update.adam_row(weights[0], at, count, numbers, state[0], np.arange(rows) * (width + 1), np.zeros(rows, np.int32), grad, at, 1,
                rate, 0.9, 0.999, tiny)
update.adagrad_row(weights[1], at, count, numbers, state[1], np.arange(rows), grad, at, 1, rate, tiny)
for array in (logits.numpy(), losses, *weights, *state):
    print(hashlib.sha256(array.tobytes()).hexdigest())
print("compiled:", sum(sum(f.stats.cache_misses.values()) for f in (_softmax_gradient, update.adam_row, update.adagrad_row)))
"""


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
