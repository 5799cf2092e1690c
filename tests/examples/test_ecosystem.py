"""The examples for PyG and DGL: each learns a tiny folder, and is as short as it says."""

from __future__ import annotations

import importlib.util
import runpy
import sys
import warnings
from pathlib import Path

import pytest
import torch

from gcnrec.testing import halves, write_dataset

EXAMPLES = Path(__file__).parents[2] / "jobs" / "examples"
NAMES = ("pyg_sage", "pyg_lightgcn", "dgl_sage")


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyG's own use of torch.jit
def test_an_example_learns(name, tmp_path, monkeypatch, capsys):
    dataset = write_dataset(halves(20, 15), tmp_path / "data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        example = load(name)
    example.RATE = 0.02
    losses = [loss for _, _, loss, _ in example.train(dataset, 30)]
    # ln 2 to begin with; telling the halves apart helps with the half of the negatives that are from the other one.
    assert losses[0] == pytest.approx(0.693, abs=0.15) and losses[-1] < 0.5
    assert [loss for _, _, loss, _ in example.train(dataset, 3)] == pytest.approx(losses[:3], rel=1e-3)
    assert torch.isfinite(torch.tensor(losses)).all()
    monkeypatch.setattr(sys, "argv", [f"{name}.py", str(dataset.folder), "2"])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["epoch 1", "epoch 2"]


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short(name):
    assert len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) < 60
