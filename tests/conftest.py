"""Fixtures of the whole suite."""

from __future__ import annotations

import gc
import os
from types import SimpleNamespace

# As the command line does: workers of one thread pool must not spin for long on cores of the other. Before numba and torch load.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import fake_device as stand_ins
import numba
import pytest
import torch
from hypothesis import HealthCheck, settings

# Examples are the same in every run, and slow first calls (compilation) are no failure.
settings.register_profile("gcnrec", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gcnrec")


def pytest_configure(config):
    """One thread in each of several workers, unless a test sets more: a second one waits for a core that is busy."""
    if hasattr(config, "workerinput"):
        numba.set_num_threads(1)
        torch.set_num_threads(1)


def pytest_collection_finish(session):
    """The collector skips what imports made: benches call it before each measurement, and 300,000 objects take it 0.15 s."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session):
    gc.unfreeze()


def settings_of_numba():
    """Not those of other libraries: importing DGL sets some."""
    return {name: value for name, value in os.environ.items() if name.startswith(("NUMBA_", "OMP_"))}


AT_FIRST = settings_of_numba()


@pytest.fixture(autouse=True)
def _environment_stays():
    """What one test leaves in the environment reconfigures numba in the middle of the next: let the guilty one fail."""
    yield
    assert settings_of_numba() == AT_FIRST


@pytest.fixture(scope="session", autouse=True)
def _facts_of_tests(tmp_path_factory):
    """What tests verify is no part of this user's memory. Without pydantic, as on some GPU machines, none verifies anything."""
    try:
        from gcnrec.integrity import facts
    except ImportError:
        yield
        return
    place = tmp_path_factory.mktemp("verified", numbered=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(facts, "own_folder", lambda name: place)
        yield


@pytest.fixture
def workplace(tmp_path):
    """The working directory of `gcnrec`, empty; a file of tests that share one has its own fixture of this name."""
    return tmp_path


@pytest.fixture
def gcnrec(capsys, workplace, monkeypatch):
    """Runs a command in `workplace`; returns (exit code, stdout, stderr)."""
    from gcnrec import cli

    monkeypatch.chdir(workplace)

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.app([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return caught.value.code, shown.out, shown.err

    return call


@pytest.fixture
def threads():
    """Sets the number of numba threads inside a test, which is skipped on fewer cores; what it was comes back afterwards."""
    before = numba.get_num_threads()

    def change(count):
        if count > numba.config.NUMBA_NUM_THREADS:
            pytest.skip(f"needs {count} cores")
        numba.set_num_threads(count)

    yield change
    numba.set_num_threads(before)


@pytest.fixture
def charts_take_no_time(monkeypatch):
    """Reports have an empty drawing in place of each chart, as drawing takes longer than a small training."""
    from gcnrec.reports import charts

    monkeypatch.setattr(charts, "_svg", lambda *drawn: "<svg></svg>")


@pytest.fixture
def quick_bench(monkeypatch):
    """Small benches neither rest nor collect garbage before each measurement; the threads that they set come back."""
    from gcnrec.bench import harness, memory

    monkeypatch.setattr(harness, "_REST_SECONDS", 0.0)
    monkeypatch.setattr(memory, "gc", SimpleNamespace(collect=lambda: 0))
    before = torch.get_num_threads(), numba.get_num_threads()
    yield
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])


@pytest.fixture
def fake_device():
    """The module with devices that run on the CPU in an order of their own."""
    return stand_ins
