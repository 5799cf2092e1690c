"""Steps of graphsage and pinsage with the GPU's kernels, run on the CPU, against the same steps with the CPU's own."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("pydantic", reason="reads jobs")

from host_device import HostDevice, kernels_of_the_gpu
from node_steps import CASES, job_of, step_behind, trained

from gcnrec.tables.hot_rows import Prefixes


@pytest.mark.parametrize("case", ["both sides", "int8", "features alone", "weighted", "pinsage"])
def test_trains_as_the_cpu_does(case, host_launcher):
    settings, features = CASES[case]
    job = job_of(**settings)
    losses, tensors = trained(step_behind(None, job, features))
    start = {name: tensor.clone() for name, tensor in step_behind(None, job, features).encoder.layers.state_dict().items()}
    with kernels_of_the_gpu(host_launcher):
        again, others = trained(step_behind(HostDevice(), job, features, Prefixes(24, 5, 7)))
    used = {name for name, _, _ in host_launcher.launches}
    kind = {"both sides": "float16", "int8": "int8"}.get(case, "float32")
    assert f"gcnrec_read_{kind}" in used and any("propagate" in name for name in used)
    assert [loss.value for loss in again] == pytest.approx([loss.value for loss in losses], rel=1e-4)
    moved = 0.0
    for name, tensor in tensors.items():
        scale = float(tensor.abs().max())
        assert torch.allclose(others[name], tensor, rtol=1e-3, atol=1e-4 * scale + 1e-7), name
        if name.startswith("layers."):
            moved = max(moved, float((tensor - start[name.removeprefix("layers.")]).abs().max()))
    assert moved > 0.01  # of 4 steps of Adam at 0.02
