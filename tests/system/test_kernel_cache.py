"""Compiled kernels find a place that is this user's alone where the package may not be written to."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import unprivileged

import gcnrec
from gcnrec.loaders.schema import open_dataset
from gcnrec.system import kernel_cache
from gcnrec.system.kernel_cache import find_room, take_warnings

VARIABLE = "NUMBA_CACHE_DIR"


@pytest.fixture
def places(tmp_path, monkeypatch):
    """XDG's folder, the homes by HOME and by the password file, and the folder that all users share."""
    named = {name: tmp_path / name for name in ("xdg", "home", "passwd", "shared")}
    for path in named.values():
        path.mkdir()
    monkeypatch.setattr(pwd, "getpwuid", lambda number: SimpleNamespace(pw_dir=str(named["passwd"])))
    monkeypatch.setattr(kernel_cache, "_SHARED", named["shared"])
    return SimpleNamespace(**named, environment={"XDG_CACHE_HOME": str(named["xdg"]), "HOME": str(named["home"])})


def found(environment):
    find_room(environment)
    return Path(environment[VARIABLE])


def test_the_first_place_that_can_be_had_is_taken(places):
    shared = places.shared / f"gcnrec-{os.geteuid()}"
    assert found(dict(places.environment)) == places.xdg / "gcnrec/kernels"
    assert found({"HOME": str(places.home)}) == places.home / ".cache/gcnrec/kernels"
    assert found({"HOME": "/proc/none"}) == places.passwd / ".cache/gcnrec/kernels"
    shutil.rmtree(places.passwd)
    places.passwd.touch()
    assert found({"XDG_CACHE_HOME": "relative", "HOME": ""}) == shared
    assert stat.S_IMODE(shared.stat().st_mode) == 0o700 and not Path("relative").exists()
    assert take_warnings() == []


def test_a_user_without_an_entry_in_the_password_file_gets_the_shared_place(places, monkeypatch):
    def absent(number):
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", absent)
    assert found({}) == places.shared / f"gcnrec-{os.geteuid()}"


def test_the_variable_of_the_user_stays(places):
    environment = {**places.environment, VARIABLE: "/mine"}
    find_room(environment)
    assert environment[VARIABLE] == "/mine" and not list(places.xdg.iterdir())


def others(folder, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)


def link(folder, monkeypatch):
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))


def writable(folder, monkeypatch):
    folder.chmod(0o777)


def readable(folder, monkeypatch):
    folder.chmod(0o755)


def a_file(folder, monkeypatch):
    folder.rmdir()
    folder.touch()


@pytest.mark.parametrize("spoil", [others, link, writable, readable, a_file])
def test_a_shared_place_that_another_user_may_have_made_is_not_used(places, spoil, monkeypatch):
    """The folder lies under a name that anybody may take first."""
    taken = places.shared / f"gcnrec-{os.geteuid() + (spoil is others)}"
    taken.mkdir(0o700)
    spoil(taken, monkeypatch)
    a_file(places.passwd, monkeypatch)
    private = found({})
    try:
        assert private.parent != places.shared and stat.S_IMODE(private.stat().st_mode) == 0o700
        (warning,) = take_warnings()
        assert str(taken) in warning and f"set {VARIABLE} to a folder" in warning
    finally:
        kernel_cache._remove(private, os.getpid())
    assert not private.exists() and not any(path.is_file() for path in places.shared.rglob("gcnrec-*/*"))


@pytest.mark.parametrize("level", ["gcnrec", "gcnrec/kernels"])
@pytest.mark.parametrize("spoil", [link, writable])
def test_no_level_below_the_cache_folder_may_be_changed_by_others(places, level, spoil, monkeypatch):
    (places.xdg / "gcnrec/kernels").mkdir(0o700, parents=True)
    spoil(places.xdg / level, monkeypatch)
    assert found(dict(places.environment)) == places.home / ".cache/gcnrec/kernels"


def read_only_copy(folder):
    """The package in a folder of its own, without write permission; its kernels are those that this machine has compiled."""
    package = folder / "gcnrec"
    shutil.copytree(Path(gcnrec.__file__).parent, package)
    for path in [*package.rglob("*"), package, folder]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return package


def with_compiled_kernels(package, home):
    """`home` after an earlier command: compiling takes 15 seconds."""
    (home / ".cache/gcnrec").mkdir(parents=True)
    (home / ".cache/gcnrec/kernels").mkdir(0o700)
    for folder in package.rglob("__pycache__"):
        # As numba names the folder of a file's kernels.
        name = f"{folder.parent.name}_{hashlib.sha1(str(folder.parent).encode()).hexdigest()}"
        for file in folder.glob("*.nb?"):
            (home / ".cache/gcnrec/kernels" / name).mkdir(exist_ok=True)
            shutil.copy(file, home / ".cache/gcnrec/kernels" / name / file.name)


def test_a_read_only_package_without_an_environment_ingests(tmp_path):
    """A container: no capability, no HOME, no PATH."""
    root, home = tmp_path / "root", tmp_path / "home"
    root.mkdir(), home.mkdir()
    package = read_only_copy(root)
    try:
        with_compiled_kernels(package, home)
        before = sorted(package.rglob("*"))
        users, items = np.arange(300) % 30, np.arange(300) * 7 % 20
        pq.write_table(pa.table({"u": users, "i": items}), tmp_path / "e.parquet")
        command = [sys.executable, unprivileged.__file__, str(root), str(home), "ingest", "--train", "e.parquet"]
        done = subprocess.run(
            [*command, "--user", "u", "--item", "i", "--out", "data"], env={}, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0 and "Traceback" not in done.stderr and "warning" not in done.stderr, done.stderr
        assert sorted(package.rglob("*")) == before
    finally:
        for path in [root, package, *(path for path in package.rglob("*") if path.is_dir())]:
            path.chmod(0o755)
    made = open_dataset(tmp_path / "data")
    kept = made.graph.user_items.indptr[-1] + len(made.valid) + len(made.test)
    assert kept == len(set(zip(users.tolist(), items.tolist(), strict=True))) == 60
    assert list((home / ".cache/gcnrec/kernels").rglob("*.nbi"))
