"""Where runs and datasets go, and when a dataset is reused."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.config import Data
from gcnrec.errors import DataError, UsageError
from gcnrec.loaders.on_demand import DataRequest, open_or_ingest
from gcnrec.loaders.recipe import dataset_key, inputs_of
from gcnrec.pipeline import list_lengths, run_folder
from gcnrec.reports.progress import Quiet
from gcnrec.system.observer import SILENT


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def data(here):
    users = [n // 6 for n in range(120)]
    items = [(n // 6 + n % 6 * 3) % 20 for n in range(120)]
    pq.write_table(pa.table({"u": users, "i": items}), "clicks.parquet")
    return Data(train="clicks.parquet", user="u", item="i")


def test_runs_are_numbered_and_never_overwritten(here):
    runs = Path("runs")
    names = []
    for _ in range(3):
        names.append(run_folder(runs, "job", None, False))
        names[-1].mkdir(parents=True)
    assert names == [runs / "job", runs / "job-2", runs / "job-3"]
    assert run_folder(runs, "job", None, True) == runs / "job-3"


def test_out_that_exists_is_refused_unless_resumed(here):
    out = Path("out")
    assert run_folder(Path("runs"), "job", out, False) == out
    out.mkdir()
    with pytest.raises(UsageError, match=r"out exists .* remove it"):
        run_folder(Path("runs"), "job", out, False)
    for name in ("job.toml", "lineage.json"):  # a run, which can be continued
        (out / name).touch()
    with pytest.raises(UsageError, match=r"out exists .* --resume"):
        run_folder(Path("runs"), "job", out, False)
    assert run_folder(Path("runs"), "job", out, True) == out


def test_nothing_to_resume(here):
    with pytest.raises(UsageError, match="no run to resume"):
        run_folder(Path("runs"), "job", None, True)


def test_a_dataset_is_made_once(here, data):
    notes, said = [], Quiet()
    said.note = notes.append
    first = open_or_ingest(DataRequest(data, Path("job.toml")), said)
    assert first.folder.parent == Path("data") and first.folder.name.startswith("job-") and notes
    stamp = (first.folder / "dataset.json").stat().st_mtime_ns
    again = open_or_ingest(DataRequest(data, Path("job.toml")), SILENT)
    assert again.digest == first.digest and (again.folder / "dataset.json").stat().st_mtime_ns == stamp


def test_another_recipe_or_input_is_another_dataset(here, data):
    def key(settings, *others):
        return dataset_key(settings, None, inputs_of(settings, None), others)

    keys = {key(data), key(data.model_copy(update={"seed": 1}))}
    assert key(data.model_copy(update={"memory_limit": "1GB"})) in keys
    features = data.model_copy(update={"item_features": "clicks.parquet"})
    keys |= {key(features), key(features.model_copy(update={"memory_limit": "1GB"}))}  # fewer words where memory is short
    keys |= {key(data, "a card's text")}
    pq.write_table(pa.table({"u": [1, 2], "i": [1, 2]}), "clicks.parquet")
    keys.add(key(data))
    assert len(keys) == 6


def test_a_named_folder_is_reused_only_for_the_same_settings(here, data):
    named = data.model_copy(update={"folder": "mine"})
    settings = Data.model_validate({**data.model_dump(exclude_unset=True), "folder": "mine"})
    made = open_or_ingest(DataRequest(settings, Path("j")), SILENT)
    assert made.folder == Path("mine")
    assert open_or_ingest(DataRequest(named, Path("j.toml")), SILENT).digest == made.digest
    other = Data.model_validate({**data.model_dump(exclude_unset=True), "folder": "mine", "seed": 9})
    with pytest.raises(DataError, match=r"mine was ingested with data.seed = 0, j.toml has 9; remove"):
        open_or_ingest(DataRequest(other, Path("j.toml")), SILENT)


def test_a_given_folder_wins(here, data):
    made = open_or_ingest(DataRequest(data, Path("job.toml")), SILENT)
    assert open_or_ingest(DataRequest(Data(), Path("job.toml"), made.folder), SILENT).digest == made.digest
    assert open_or_ingest(DataRequest(Data(folder=str(made.folder)), Path("job.toml")), SILENT).digest == made.digest


def test_card_is_found_from_the_job_file(here):
    with pytest.raises(UsageError, match=r"no card at jobs/c.toml or c.toml"):
        open_or_ingest(DataRequest(Data(card="c.toml"), Path("jobs/job.toml")), SILENT)


def test_list_lengths():
    assert list_lengths(None) is None
    assert list_lengths("50,10,20,10") == (10, 20, 50)
    for wrong in ("", "a", "0", "10,", "-1", "1.5"):
        with pytest.raises(UsageError, match="--k expects"):
            list_lengths(wrong)


def test_a_card_that_is_no_utf8_is_refused_in_a_sentence(gcnrec, tmp_path):
    (tmp_path / "card.toml").write_bytes(b'[card]\nname = "\xff"\n')
    (tmp_path / "job.toml").write_text('[data]\ncard = "card.toml"\n')
    code, _, err = gcnrec("run", tmp_path / "job.toml", "--out", tmp_path / "run")
    assert code == 2 and err.count("\n") == 1 and "card.toml" in err


def test_names_with_a_colon_are_paths_of_this_machine(gcnrec, workplace):
    """Arrow would take `12:30` and `file:` before a slash for the scheme of an address."""
    pq.write_table(pa.table({"user": [1, 1, 2, 2, 3, 3], "item": [1, 2, 2, 3, 3, 1]}), workplace / "train.parquet")
    job = "[model]\nwidth = 4\n[train]\nepochs = 1\nthreads = 1\n[evaluate]\nbootstrap = 0\nbaselines = []\n"
    (workplace / "job.toml").write_text(job)
    columns = ["--train", "train.parquet", "--user", "user", "--item", "item", "--valid-size", "0"]
    for name in ("run-12:30", "file:", "local:"):
        assert gcnrec("ingest", *columns, "--out", f"{name}/data")[0] == 0
        assert gcnrec("train", "job.toml", "--data", f"{name}/data", "--out", f"{name}/run")[0] == 0
        code, _, err = gcnrec("recommend", f"{name}/run", "--out", f"{name}/lists.parquet")
        assert code == 0, err
        assert (workplace / name / "lists.parquet").is_file()
