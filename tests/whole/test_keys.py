"""A dataset is found again by all that decides its rows: files, settings, rules, moment; runs go on with theirs."""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.config import Data
from gcnrec.errors import DataError, UsageError
from gcnrec.loaders import on_demand
from gcnrec.loaders.conditions.moments import words_of_the_moment
from gcnrec.loaders.on_demand import DataRequest, ingest_flags, open_or_ingest
from gcnrec.loaders.recipe import folder_name, name_of
from gcnrec.pipeline import begun_or_ingested
from gcnrec.reports.progress import Quiet
from gcnrec.system.observer import SILENT
from gcnrec.training import train as train_module

JOB = Path("job.toml")
POPULARITY = '[model]\nname = "popularity"\n[evaluate]\nbootstrap = 0\n'
CARD = '[card]\nname = "shop"\ntitle = "t"\nlicence = "l"\norigin = "o"\n[data]\ntrain = "events"\nuser = "u"\nitem = "i"\n'


pytestmark = pytest.mark.usefixtures("charts_take_no_time")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(path, first, number=30):
    """`number` users from `first` on, each with 4 items."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    users = np.repeat(np.arange(first, first + number), 4)
    pq.write_table(pa.table({"u": users, "i": np.arange(4 * number) % 11, "x": np.ones(4 * number)}), path)


def features(path, items=11):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"i": np.arange(items), "f": np.arange(items) * 1.0}), path)


def opened(data, job=JOB, **given):
    """The dataset of `data`, and what was reported."""
    notes, observer = [], Quiet()
    observer.note = observer.warn = notes.append
    return open_or_ingest(DataRequest(data, job, **given), observer), notes


def users(path):
    """The distinct users of all Parquet files below `path`, by pyarrow."""
    return len(
        pa.compute.unique(pa.concat_arrays([pq.read_table(p)["u"].combine_chunks() for p in Path(path).rglob("*.parquet")]))
    )


@pytest.mark.parametrize("train", ["events/day=*/*.parquet", "events/day=*", "file"])
def test_a_new_day_is_a_new_dataset(train, tmp_path):
    train = f"file://{tmp_path}/events" if train == "file" else train
    data = Data(train=train, user="u", item="i", split="random")
    write("events/day=1/part.parquet", 0)
    first, _ = opened(data)
    again, said = opened(data)
    assert first.graph.num_users == users("events") == 30 and again.folder == first.folder and said == []
    write("events/day=2/part.parquet", 100)
    second, said = opened(data)
    assert second.graph.num_users == users("events") == 60 and second.folder != first.folder
    assert sum(str(first.folder) in line and "remove what no run needs" in line for line in said) == 1
    assert opened(data)[1] == [] and first.folder.is_dir()
    Path("events/day=2/part.parquet").unlink()
    assert opened(data)[0].folder == first.folder  # the files of then


@pytest.mark.parametrize("key", ["test", "valid", "item_features", "user_features"])
def test_every_input_counts(key):
    write("events/a.parquet", 0)
    write("test/a.parquet", 0)
    write("valid/a.parquet", 0)
    features("item_features/a.parquet")
    pq.write_table(
        pa.table({"u": np.arange(30), "f": np.arange(30) * 1.0}), features("user_features/a.parquet") or "user_features/a.parquet"
    )
    inputs = {key: key for key in ("test", "valid", "item_features", "user_features")}
    data = Data(train="events", user="u", item="i", repeats="keep", **inputs)
    first, _ = opened(data)
    assert opened(data)[0].folder == first.folder
    assert list(first.info["inputs"]) == ["train", *inputs]
    path = Path(key, "a.parquet")
    size, when = first.info["inputs"][key][0][1:]
    assert (size, int(when)) == (path.stat().st_size, path.stat().st_mtime_ns)
    os.utime(path, ns=(1, 1_700_000_000_000_000_001))  # of equal size: only the time says that it is another file
    assert opened(data)[0].folder != first.folder


def test_every_setting_counts_and_the_name_of_the_job_does_not(monkeypatch):
    write("events/a.parquet", 0)
    data = Data(train="events", user="u", item="i", split="random")
    first, _ = opened(data)
    with monkeypatch.context() as patch:  # what is there may lie on a disk where no lock can be written
        patch.setattr(on_demand, "turn_at", None)
        assert opened(data)[0].folder == first.folder
        assert opened(data.model_copy(update={"folder": str(first.folder)}))[0].folder == first.folder
    assert first.folder.name.startswith("job-") and first.name == "events"
    other, said = opened(data, Path("other.toml"))
    assert other.folder == first.folder and f"{first.folder} is of the same files and settings, and is used" in said
    assert opened(data.model_copy(update={"where": "x > 0"}))[0].folder != first.folder
    named, _ = opened(data.model_copy(update={"name": "mine"}))
    assert named.folder.name.startswith("mine-") and named.name == "mine" and named.digest == first.digest


def test_files_of_a_card_without_a_sha256_count():
    write("root/events/a.parquet", 0)
    Path("shop.toml").write_text(CARD)
    request = {"data_root": Path("root")}
    first, _ = opened(Data(card="shop.toml"), **request)
    assert first.folder.name.startswith("shop-") and first.graph.num_users == 30
    write("root/events/b.parquet", 50)
    assert opened(Data(card="shop.toml"), **request)[0].graph.num_users == 60
    Path("shop.toml").write_text(CARD + 'where = "x > 2"\n')
    with pytest.raises(DataError, match="removes all"):
        opened(Data(card="shop.toml"), **request)


def test_another_number_of_rules_is_another_dataset(monkeypatch):
    write("events/a.parquet", 0)
    data = Data(train="events", user="u", item="i", split="random")
    first, _ = opened(data)
    for module in ("gcnrec.loaders.recipe", "gcnrec.loaders.parquet", "gcnrec.loaders.on_demand"):
        monkeypatch.setattr(f"{module}.RULES", 99)
    second, _ = opened(data)
    assert second.folder != first.folder and second.info["rules"] == 99


def test_a_dataset_whose_files_changed_while_it_was_made_is_made_again():
    """Its name is of the files before, its rows of the files after."""
    write("events/a.parquet", 0)
    data = Data(train="events", user="u", item="i", split="random")
    first, _ = opened(data)
    info = json.loads((first.folder / "dataset.json").read_text())
    info["inputs"]["train"][0][1] += 1
    del info["own_sha256"]
    (first.folder / "dataset.json").write_text(json.dumps(info))
    assert opened(data)[0].folder == first.folder
    assert json.loads((first.folder / "dataset.json").read_text())["inputs"]["train"][0][1] == info["inputs"]["train"][0][1] - 1


def test_files_of_a_given_folder_that_changed_are_refused(gcnrec):
    command, extra = "check", ["--resolved"]
    JOB.write_text('[data]\ntrain = "events/*.parquet"\nuser = "u"\nitem = "i"\nfolder = "kept"\n' + POPULARITY)
    write("events/a.parquet", 0)
    assert gcnrec(command, JOB, *extra)[0] == 0
    write("events/b.parquet", 50)
    code, _, err = gcnrec(command, JOB, *extra)
    assert code == 3 and "b.parquet of data.train is new; ingest it again with --force" in err
    write("events/a.parquet", 7, number=31)
    Path("events/b.parquet").unlink()
    code, _, err = gcnrec(command, JOB, *extra)
    assert code == 3 and "a.parquet of data.train has changed (from " in err
    assert gcnrec(command, JOB, *extra, "--force")[0] == 0
    assert json.loads(Path("kept/dataset.json").read_text())["num_users"] == users("events") == 31
    assert gcnrec(command, JOB, *extra)[0] == 0
    Path("events/a.parquet").unlink()
    code, _, err = gcnrec(command, JOB, *extra)
    assert code == 3 and "files that are not there now" in err and "use it as it is with --data kept" in err
    assert gcnrec(command, JOB, *extra, "--data", "kept")[0] == 0


def test_a_given_folder_of_an_earlier_version_is_used_with_a_warning():
    write("events/a.parquet", 0)
    data = Data.model_validate({"train": "events", "user": "u", "item": "i", "folder": "kept"})
    made, _ = opened(data)
    info = json.loads((made.folder / "dataset.json").read_text())
    Path("kept/dataset.json").write_text(
        json.dumps({key: value for key, value in info.items() if key not in ("rules", "inputs", "own_sha256")})
    )
    again, said = opened(data)
    assert again.digest == made.digest and len(said) == 1 and "rules 1 of another version" in said[0] and "--force" in said[0]
    assert opened(data, force=True)[0].info["inputs"] == info["inputs"]


def test_force_needs_something_to_ingest():
    write("events/a.parquet", 0)
    made, _ = opened(Data(train="events", user="u", item="i"))
    for data, folder in ((Data(), made.folder), (Data(folder=str(made.folder)), None)):
        with pytest.raises(UsageError, match="--force ingests again"):
            opened(data, folder=folder, force=True)


def test_force_replaces_no_other_folder(gcnrec):
    write("events/a.parquet", 0)
    code, _, err = gcnrec("ingest", "--train", "events", "--user", "u", "--item", "i", "--out", "events", "--force")
    assert code == 3 and "lacks dataset.json" in err and Path("events/a.parquet").is_file()


def test_force_removes_no_file_that_somebody_keeps_in_a_dataset_folder(gcnrec):
    write("made/a.parquet", 0)
    flags = ("--user", "u", "--item", "i", "--out", "shop")
    assert gcnrec("ingest", "--train", "made", *flags)[0] == 0
    Path("made").rename("shop/made")
    code, _, err = gcnrec("ingest", "--train", "shop/made", *flags, "--force")
    assert code == 3 and "move made elsewhere" in err and Path("shop/made/a.parquet").is_file()
    Path("shop/made").rename("made")
    assert gcnrec("ingest", "--train", "made", *flags, "--force")[0] == 0


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("events/day=*/*.parquet", "events"), ("*.parquet", "data"), ("clicks.parquet", "clicks"), ("a/b/", "b"), ("-x/*", "x"),
        ("s3://bucket/ev/*.parquet", "ev"), ("gs://bucket/x.parquet?a=b", "x"), ("..", "data"), ("[ab]/c.parquet", "data"),
    ],
)  # fmt: skip
def test_a_name_comes_of_what_has_no_wildcards(text, name):
    assert name_of(text) == name and folder_name(text)[0] not in "-." and not set(folder_name(text)) & set("*?[]/")


@pytest.mark.parametrize("name", ["*", "-x", "a/b", ".x", "", "x[1]"])
def test_a_name_is_one_of_a_folder(gcnrec, name):
    write("events/a.parquet", 0)
    code, _, err = gcnrec("ingest", "--train", "events", "--user", "u", "--item", "i", "--out", "ds", f"--name={name}")
    assert code == 2 and "name" in err and not Path("ds").exists()


def test_a_glob_names_its_folder(gcnrec):
    write("events/a.parquet", 0)
    flags = ["--train", "events/*.parquet", "--user", "u", "--item", "i"]
    for extra, name in (([], "events"), (["--name", "shop"], "shop")):
        assert gcnrec("ingest", *flags, *extra, "--out", f"made-{name}")[0] == 0
        assert json.loads(Path(f"made-{name}", "dataset.json").read_text())["name"] == name


WORDS = {
    "x > epoch(now()) * 0": ["now"],
    "random() < 2 AND x IN (1, hash(RANDOM()))": ["random"],
    "current_date > DATE '2020-01-01' OR localtimestamp IS NULL": ["current_date", "localtimestamp"],
    "age(ts) > INTERVAL 1 DAY": ["age"],
    "ts > ago(INTERVAL 7 DAYS) AND NOT ts > today()": ["ago", "today"],
    "CASE WHEN x > 0 THEN get_current_timestamp() ELSE transaction_timestamp() END > ts": [
        "get_current_timestamp",
        "transaction_timestamp",
    ],
    "age(ts, other) > INTERVAL 1 DAY AND now = 'now' AND epoch(ts) > 0": [],
}


@pytest.mark.parametrize("where", WORDS)
def test_words_of_the_moment(where):
    assert sorted(words_of_the_moment(where)) == WORDS[where]


def test_a_condition_on_the_moment_ingests_anew():
    write("events/a.parquet", 0)
    data = Data(train="events", user="u", item="i", split="random", where="x > epoch(now()) * 0")
    before = datetime.now(UTC)
    first, second = opened(data)[0], opened(data)[0]
    assert first.folder != second.folder
    assert (
        before
        <= datetime.fromisoformat(first.info["report"]["moment"])
        <= datetime.fromisoformat(second.info["report"]["moment"])
    )
    assert "moment" not in opened(data.model_copy(update={"where": "x > 0"}))[0].info["report"]


def test_the_moment_is_one_for_all_files():
    """A thousand rows in each file, of which the microseconds of now() keep one."""
    for name in ("train", "valid", "test"):
        pq.write_table(pa.table({"u": np.arange(1000), "i": np.arange(1000)}), f"{name}.parquet")
    files = {name: f"{name}.parquet" for name in ("train", "valid", "test")}
    data = Data(**files, user="u", item="i", repeats="keep", keep_cold=True, where="u = epoch_us(now()) % 1000")
    made, _ = opened(data)
    moment = datetime.fromisoformat(made.info["report"]["moment"])
    kept = moment.microsecond % 1000
    assert made.user_ids.ids.to_pylist() == [kept] and len(made.valid) == len(made.test) == made.graph.num_edges == 1


def test_a_given_folder_of_another_moment_is_refused():
    write("events/a.parquet", 0)
    data = Data.model_validate({"train": "events", "user": "u", "item": "i", "folder": "kept", "where": "x > 0 OR now() IS NULL"})
    opened(data)
    with pytest.raises(DataError, match=r"by now in a condition of job.toml; ingest it again with --force"):
        opened(data)
    opened(data, force=True)


def test_files_that_change_while_they_are_read_are_refused():
    write("events/a.parquet", 0)
    observer = Quiet()
    observer.work = lambda *_: os.utime("events/a.parquet", (1, 1))
    with pytest.raises(DataError, match=r"a.parquet of data.train has changed .*; ingest again when nothing writes there"):
        ingest_flags(
            None, {"train": "events", "user": "u", "item": "i"}, Path("ds"), data_root=None, force=False, observer=observer
        )
    assert not Path("ds").exists()


def together(number, work):
    """Calls `work(0)` ... in threads; what each returned or raised."""
    results = [None] * number

    def call(place):
        try:
            results[place] = work(place)
        except Exception as problem:
            results[place] = problem

    threads = [threading.Thread(target=call, args=(place,)) for place in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_runs_of_one_job_share_a_dataset():
    write("events/a.parquet", 0)
    data = Data(train="events", user="u", item="i", split="random")
    made = together(3, lambda place: opened(data, Path(f"job{place}.toml")))
    assert len({str(dataset.folder) for dataset, _ in made}) == 1
    assert sum("train," in line for _, said in made for line in said) == 1  # the last line of an ingestion
    assert sorted(path.name for path in Path("data").iterdir()) == [made[0][0].folder.name]


def test_two_ingestions_into_one_folder_wait():
    write("events/a.parquet", 0)

    def ingest(place, seed):
        flags = {"train": "events", "user": "u", "item": "i", "seed": seed}
        return ingest_flags(None, flags, Path("ds"), data_root=None, force=False, observer=slow).digest

    slow, reading = Quiet(), threading.Event()
    slow.work = lambda *_: reading.set() or threading.Event().wait(0.3)

    def second(place):
        if place:
            reading.wait(10)
        return ingest(place, 0 if place < 2 else 7)

    first, shared, other = together(3, second)
    assert first == shared and isinstance(first, str)
    assert isinstance(other, DataError) and "never overwritten" in str(other)


def test_a_name_that_another_run_takes_first_is_chosen_again(gcnrec, monkeypatch):
    write("events/a.parquet", 0)
    JOB.write_text('[data]\ntrain = "events"\nuser = "u"\nitem = "i"\n' + POPULARITY)
    plain = train_module.make_folder

    def late(folder):
        if folder.name == "job":
            folder.mkdir(parents=True, exist_ok=True)  # the other run was faster
        plain(folder)

    monkeypatch.setattr(train_module, "make_folder", late)
    code, out, err = gcnrec("run", JOB, "--json")
    assert code == 0 and json.loads(out)["run"] == "runs/job-2", err
    assert not any(Path("runs/job").iterdir()) and Path("runs/job-2/metrics.json").is_file()
    code, _, err = gcnrec("run", JOB, "--out", "job")
    assert code == 2 and "never overwritten" in err


def test_a_resumed_run_takes_the_dataset_that_it_began_with(gcnrec):
    write("events/a.parquet", 0)
    JOB.write_text('[data]\ntrain = "events"\nuser = "u"\nitem = "i"\n' + POPULARITY)
    assert gcnrec("run", JOB)[0] == 0
    before = sorted(Path("data").iterdir())
    write("events/b.parquet", 50)
    Path("runs/job/metrics.json").unlink()
    code, _, err = gcnrec("run", JOB, "--resume")
    assert code == 0 and sorted(Path("data").iterdir()) == before and Path("runs/job/metrics.json").is_file(), err
    code, _, err = gcnrec("run", JOB, "--resume", "--force")
    assert code == 2 and "runs/job goes on with the data it began with" in err
    code, _, err = gcnrec("run", JOB, "--resume", "--set", "data.k_core=2")
    assert code == 3 and "data.k_core = 0" in err and "continue runs/job with runs/job/job.toml" in err
    assert gcnrec("run", "runs/job/job.toml", "--out", "runs/job", "--resume")[0] == 0
    assert sorted(Path("data").iterdir()) == before


def test_a_sweep_goes_on_with_the_dataset_of_its_first_run(gcnrec):
    write("events/a.parquet", 0)
    where = "now() IS NOT NULL"
    JOB.write_text(f'[data]\ntrain = "events"\nuser = "u"\nitem = "i"\nwhere = "{where}"\n' + POPULARITY)
    assert gcnrec("run", JOB)[0] == 0
    (made,) = Path("data").iterdir()
    request = DataRequest(Data(train="events", user="u", item="i", where=where), JOB)
    assert begun_or_ingested(request, [Path("runs/none"), Path("runs/job")], SILENT).folder == made.resolve()
    assert begun_or_ingested(request, [Path("runs/none")], SILENT).folder.resolve() != made.resolve()
