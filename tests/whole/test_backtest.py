"""`gcnrec backtest`: windows follow each other, train knows nothing of them, and each figure is that of a run of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.config import Job
from gcnrec.errors import UsageError
from gcnrec.loaders.on_demand import DataRequest
from gcnrec.loaders.schema import open_dataset
from gcnrec.results.backtest import Windows, backtest, seconds_of
from gcnrec.system.observer import SILENT

pytestmark = pytest.mark.usefixtures("charts_take_no_time")
DAY, BEGIN, DAYS = 86_400, 1_700_006_400, 20
JOB = """
[data]
train = "events.parquet"
user = "user"
item = "item"
time = "time"
valid_size = 0.1
[model]
width = 8
[train]
epochs = 2
batch_size = 256
[evaluate]
k = [5]
metric = "recall@5"
bootstrap = 50
baselines = []
"""


@pytest.fixture
def events(workplace):
    """40 users, each in one half of 30 items, over 20 days of UTC; the newest event is the last second of the last day."""
    rng = np.random.default_rng(0)
    users = rng.integers(0, 40, 3000)
    items = users % 2 * 15 + rng.integers(0, 15, 3000)
    times = BEGIN + rng.integers(0, DAYS * DAY, 3000)
    times[-1] = BEGIN + DAYS * DAY - 1
    pq.write_table(pa.table({"user": users, "item": items, "time": times}), workplace / "events.parquet")
    (workplace / "job.toml").write_text(JOB)
    return users, items, times


def test_windows_follow_each_other_and_train_lies_before_them(events, workplace, gcnrec):
    code, out, _ = gcnrec("backtest", "job.toml", "--cuts", "3", "--every", "2d", "--json")
    assert code == 0
    found = json.loads(out)
    users, items, times = events
    assert len(found["cuts"]) == 3 and found["cuts"][-1]["test_until"] == "2023-12-05T00:00:00+00:00"
    assert [cut["test_from"] for cut in found["cuts"][1:]] == [cut["test_until"] for cut in found["cuts"][:-1]]
    places = sorted(path.name for path in (workplace / "runs/job-backtest").glob("2023*-2d"))
    assert places == ["20231129T000000-2d", "20231201T000000-2d", "20231203T000000-2d"]
    for number in range(3):
        first = BEGIN + DAYS * DAY - (3 - number) * 2 * DAY
        dataset = open_dataset(workplace / f"runs/job-backtest/{places[number]}/data")
        assert dataset.times_E.max() < dataset.valid.times_E.min() < first <= dataset.test.times_E.min()
        assert dataset.test.times_E.max() < first + 2 * DAY
        seen = set(zip(users[times < first].tolist(), items[times < first].tolist(), strict=True))
        known_users, known_items = ({pair[at] for pair in seen} for at in (0, 1))
        inside = (times >= first) & (times < first + 2 * DAY)
        expected = {
            pair
            for pair in zip(users[inside].tolist(), items[inside].tolist(), strict=True)
            if pair not in seen and pair[0] in known_users and pair[1] in known_items
        }
        test = dataset.test
        ids = zip(test.user_ids.decode(test.users_E).to_pylist(), test.item_ids.decode(test.items_E).to_pylist(), strict=True)
        assert set(ids) == expected
    assert found["mean"] == pytest.approx(np.mean([cut["value"] for cut in found["cuts"]]))
    assert json.loads((workplace / "runs/job-backtest/backtest.json").read_text()) == found
    page = (workplace / "runs/job-backtest/backtest.html").read_text(encoding="utf-8")
    assert all(f'<td class="number">{cut["value"]:.4f}</td>' in page for cut in found["cuts"])


def test_a_cut_is_what_a_run_at_that_moment_gives_and_the_command_continues(events, workplace, gcnrec):
    code, out, _ = gcnrec("backtest", "job.toml", "--cuts", "1", "--every", "3d", "--json", "--out", "back")
    cut = json.loads(out)["cuts"][0]
    moments = ["--set", f"data.test_from='{cut['test_from']}'", "--set", f"data.test_until='{cut['test_until']}'"]
    code_alone, alone, _ = gcnrec("run", "job.toml", "--json", *moments, "--set", "data.split='temporal'")
    assert code == code_alone == 0
    assert json.loads(alone)["recall@5"] == cut["value"] and json.loads(alone)["users"] == cut["users"]
    table = next((workplace / "back").glob("*-3d/run")) / "embeddings/items.parquet"
    before = table.stat().st_mtime_ns
    code, out, _ = gcnrec("backtest", "job.toml", "--cuts", "2", "--every", "3d", "--out", "back")
    assert code == 0 and f"{cut['value']:.4f}" in out and "mean recall@5 of 2 windows" in out
    assert table.stat().st_mtime_ns == before, "a finished window is not trained again"


@pytest.mark.parametrize(("text", "seconds"), [("7d", 7 * DAY), ("12h", 43_200), ("2w", 14 * DAY)])
def test_spans(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["7", "d", "0d", "1.5d", "7 d", "-1d", "9999999d"])
def test_other_spans_are_refused(text):
    with pytest.raises(UsageError, match="--every expects a number and h, d or w, such as 7d, got"):
        seconds_of(text)


def refused(data, folder):
    raise AssertionError("nothing may be trained")


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"split": "random"}, "a backtest splits by time at moments of its own, job.toml sets data.split; leave it out"),
        ({"time": "time", "test_from": 5}, "job.toml sets data.test_from; leave it out"),
        ({"time": "time", "test_size": 0.2}, "job.toml sets data.test_size; leave it out"),
        ({}, "split = 'temporal' needs time, the column that orders interactions"),
    ],
)
def test_jobs_that_cannot_be_moved_in_time_are_refused(events, workplace, keys, sentence):
    job = Job.parse({"data": {"train": "events.parquet", "user": "user", "item": "item", **keys}}, [], "job.toml")
    with pytest.raises(UsageError, match=sentence):
        backtest(DataRequest(job.data, Path("job.toml")), Windows(2, DAY), workplace / "b", refused, "recall@5", SILENT)
    assert not (workplace / "b").exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--cuts", "11", "--every", "2d"],
            "before the first interaction; choose fewer --cuts, or a shorter",
        ),
        (["--cuts", "2", "--every", "999999w"], "a window would begin before the first interaction"),
        (
            ["--set", "data.time_unit='s'", "--set", "data.train='ms.parquet'"],
            "outside the years 1 to 9999 when read as s; set",
        ),
        (["--set", "data.train='gap.parquet'", "--every", "1d"], "no interaction lies from 2023-12-01"),
        (["--out", "d"], "d holds something else than a backtest; choose another --out"),
    ],
)
def test_windows_without_interactions_and_other_folders_are_refused(events, workplace, gcnrec, flags, sentence):
    users, items, times = events
    pq.write_table(pa.table({"user": users, "item": items, "time": times * 1000}), workplace / "ms.parquet")
    late = np.where(times < BEGIN + 2 * DAY, times, BEGIN + DAYS * DAY - 1)
    pq.write_table(pa.table({"user": users, "item": items, "time": late}), workplace / "gap.parquet")
    (workplace / "d").mkdir()
    (workplace / "d/notes.txt").write_text("mine")
    code, _, err = gcnrec("backtest", "job.toml", *flags)
    assert code == 2 and sentence in err


def test_data_that_changed_since_needs_another_folder(events, workplace, gcnrec):
    assert gcnrec("backtest", "job.toml", "--cuts", "1", "--every", "2d", "--out", "b")[0] == 0
    users, items, times = (column[:-10] for column in events)
    pq.write_table(pa.table({"user": users, "item": items, "time": times}), workplace / "events.parquet")
    code, _, err = gcnrec("backtest", "job.toml", "--cuts", "1", "--every", "2d", "--out", "b")
    assert code == 3 and "b was begun with other data (" in err and err.rstrip().endswith("choose another --out")


def test_another_job_needs_another_folder_and_few_users_are_named(events, workplace, gcnrec):
    flags = ["backtest", "job.toml", "--cuts", "1", "--every", "3h", "--out", "b", "--set", "data.repeats='keep'"]
    code, _, err = gcnrec(*flags)
    users, _, times = events
    tested = len(set(users[times >= BEGIN + DAYS * DAY - 3 * 3600].tolist()))
    assert code == 0 and 0 < tested < 30
    assert f"a mean over so few users ({tested}) says little; choose a longer --every" in err
    code, _, err = gcnrec(*flags, "--set", "model.layers=2")
    assert code == 2 and "window 1 of 1" in err and err.rstrip().endswith("; choose another --out")


def test_a_window_that_ends_before_it_begins_is_refused(events, workplace, gcnrec):
    flags = ["--train", "events.parquet", "--user", "user", "--item", "item", "--time", "time", "--out", "d"]
    code, _, err = gcnrec("ingest", *flags, "--test-from", "2023-11-20", "--test-until", "2023-11-20")
    assert code == 2 and "test_until must be later than test_from, got '2023-11-20' and '2023-11-20'" in err
    code, _, err = gcnrec("ingest", *flags, "--test-until", "2023-11-20")
    assert code == 2 and "test_until needs test_from" in err
