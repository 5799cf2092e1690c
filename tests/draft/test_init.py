"""`gcnrec init`: from Parquet with unusual names to lists, by what it says to type; and what it refuses."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

RNG = np.random.default_rng(0)
ROWS = 1500
USERS = RNG.integers(0, 60, ROWS)
CLICKS = pa.table({
    "customer": [f"c{user}" for user in USERS],
    "sku": USERS % 3 * 14 + RNG.integers(0, 14, ROWS),
    "ts": 1_700_000_000_000 + np.sort(RNG.integers(0, 10**10, ROWS)),
})  # fmt: skip


@pytest.fixture
def clicks(workplace):
    pq.write_table(CLICKS, workplace / "clicks.parquet")
    return workplace


def test_what_init_says_to_type_ends_with_lists_and_a_report(gcnrec, clicks):
    code, out, _ = gcnrec("init", "clicks.parquet")
    assert code == 0 and "clicks.parquet: 1,500 rows, 60 users and 42 items" in out
    assert [line.split()[:2] for line in out.splitlines()[2:5]] == [["user", "customer"], ["item", "sku"], ["time", "ts"]]
    commands = [shlex.split(line)[1:] for line in out[out.index("wrote job.toml") :].splitlines()[1:]]
    assert [command[0] for command in commands] == ["check", "run", "recommend"]
    for command in commands[1:]:
        code, _, err = gcnrec(*command)
        assert code == 0, err
    lists = pq.read_table("clicks-recs.parquet")
    assert lists.column_names == ["user", "item", "rank", "score"]
    assert set(lists["user"].to_pylist()) <= set(CLICKS["customer"].to_pylist()) and len(lists) > 0
    info = json.loads(next(Path("data").glob("job-*/dataset.json")).read_text())
    assert info["split"] == "temporal" and info["data"]["time_unit"] == "ms" and info["num_test"] > 0
    page = Path("runs/clicks/report.html")
    before = page.read_text()
    page.unlink()
    assert gcnrec("report", "runs/clicks", "--json") == (0, '{\n  "report": "runs/clicks/report.html"\n}\n', "")
    assert page.read_text() == before
    code, _, err = gcnrec(*commands[0], "--set", "model.name=linkprop", "--set", "mixture.with=[]")
    assert code == 0, err


def test_nothing_is_overwritten_and_nothing_read_before_that(gcnrec, clicks):
    Path("job.toml").write_text("mine")
    expected = "gcnrec: job.toml exists and is never overwritten; name another --out, or remove it\n"
    assert gcnrec("init", "absent.parquet") == (2, "", expected)
    assert Path("job.toml").read_text() == "mine"
    Path("there").symlink_to("nowhere")
    assert gcnrec("init", "clicks.parquet", "--out", "new")[0] == 0 and Path("new/job.toml").is_file()
    assert gcnrec("init", "clicks.parquet", "--out", "new")[0] == 2
    assert gcnrec("init", "clicks.parquet", "--out", "new/other.toml")[0] == 0


def test_a_refusal_leaves_no_file(gcnrec, clicks):
    pq.write_table(pa.table({"x": [0.5, 1.5]}), "none.parquet")
    code, out, err = gcnrec("init", "none.parquet")
    assert (code, out) == (3, "") and err.count("\n") == 1 and "--user COLUMN and --item COLUMN" in err
    assert gcnrec("init", "absent.parquet")[0] == 3
    assert gcnrec("init", "clicks.parquet", "--user", "custmer")[0] == 2
    assert not Path("job.toml").exists()


def test_a_text_table_comes_with_the_command_that_makes_parquet_of_it(gcnrec, clicks):
    pyarrow.csv.write_csv(CLICKS, "table.csv")
    code, _, err = gcnrec("init", "table.csv")
    assert code == 3 and "table.csv must be Parquet" in err
    program, then, *words = shlex.split(err[err.index("python -c") :])[2:]
    exec(compile(program, "typed", "exec"), {})
    assert [then, *words] == ["and", "then", "gcnrec", "init", "table.parquet"] and gcnrec("init", "table.parquet")[0] == 0


def test_a_text_table_with_decimal_commas_keeps_its_columns(gcnrec, clicks):
    lines = [
        "Kunde;Buch;Note",
        *(f"k{user};{item};{rating}" for user, item, rating in zip(USERS, USERS, ["3,5", "4,0"] * 750, strict=True)),
    ]
    Path("t.csv").write_text("\n".join(lines))
    code, _, err = gcnrec("init", "t.csv")
    exec(compile(shlex.split(err[err.index("python -c") :])[2], "typed", "exec"), {})
    table = pq.read_table("t.parquet")
    assert code == 3 and table.column_names == ["Kunde", "Buch", "Note"] and table["Note"].to_pylist() == [3.5, 4.0] * 750
    Path("tabs.tsv").write_text("a\tb\n1,5\t2\n")
    code, _, err = gcnrec("init", "tabs.tsv")
    exec(compile(shlex.split(err[err.index("python -c") :])[2], "typed", "exec"), {})
    assert pq.read_table("tabs.parquet").to_pylist() == [{"a": 1.5, "b": 2}]


def test_a_folder_of_files_with_fields_of_structs(gcnrec, clicks):
    events = [
        {"customer": user, "product": {"sku": item}} for user, item in zip(*map(pa.Array.to_pylist, columns()), strict=True)
    ]
    Path("events/day=1").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(events), "events/day=1/a.parquet")
    pq.write_table(pa.Table.from_pylist(events), "events/day=1/b.parquet")
    code, out, _ = gcnrec("init", "events", "--json")
    said = json.loads(out)
    assert code == 0 and said["rows"] == 2 * ROWS and said["exact"]
    assert {role: found["column"] for role, found in said["columns"].items()} == {"user": "customer", "item": "product.sku"}
    assert said["next"][0] == "gcnrec check job.toml" and said["settings"]["data.split"]["value"] == "random"
    assert gcnrec("check", "job.toml", "--resolved")[0] == 0


def test_days_that_folders_name_split_by_what_the_note_adds(gcnrec, clicks):
    for number, day in enumerate(("2024-01-01", "2024-01-02", "2024-01-03")):
        Path(f"events/day={day}").mkdir(parents=True)
        pq.write_table(CLICKS.drop_columns("ts").slice(500 * number, 500), f"events/day={day}/a.parquet")
    code, out, _ = gcnrec("init", "events")
    note = " ".join(out.split())
    added = shlex.split(note[note.index("add --set") + 4 : note.index("to the next commands")])
    assert code == 0 and added[::2] == ["--set"] * 3
    code, out, err = gcnrec("check", "job.toml", "--resolved", *added)
    assert code == 0 and 'time = "day"' in out and 'split = "temporal"' in out, err


def test_a_dataset_folder_needs_no_draft(gcnrec, clicks):
    assert gcnrec("ingest", "--train", "clicks.parquet", "--user", "customer", "--item", "sku", "--out", "ds")[0] == 0
    expected = "gcnrec: ds is a dataset folder already; train on it by 'gcnrec run JOB.toml --data ds'\n"
    assert gcnrec("init", "ds") == (2, "", expected)


def test_the_run_that_is_proposed_does_not_exist_yet(gcnrec, clicks):
    Path("runs/clicks").mkdir(parents=True)
    code, out, _ = gcnrec("init", "clicks.parquet", "--json")
    assert code == 0 and json.loads(out)["next"][1:] == [
        "gcnrec run job.toml --out runs/clicks-2",
        "gcnrec recommend runs/clicks-2 --k 20 --out clicks-2-recs.parquet",
    ]


def columns():
    return CLICKS["customer"].combine_chunks(), CLICKS["sku"].combine_chunks()


def test_flags_decide_what_a_guess_would_take(gcnrec, clicks):
    code, out, _ = gcnrec("init", "clicks.parquet", "--user", "sku", "--item", "customer", "--json")
    found = json.loads(out)["columns"]
    assert code == 0 and (found["user"]["column"], found["item"]["column"]) == ("sku", "customer")
    assert found["user"]["reason"] == "--user names it"
