"""A few hundred cases of jobs/measure/fuzz, and what the job found in its long runs."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.measure.fuzz import __main__ as fuzz

PAIRS = {"user": [1, 1, 2, 3], "item": ["a", "b", "b", "a"], "time": [0, 1, 2, 3]}


@pytest.fixture(scope="module")
def home():
    with tempfile.TemporaryDirectory() as folder:
        yield fuzz.make_home(Path(folder))


@pytest.mark.parametrize(("kind", "cases"), [("parquet", 200), ("jobs", 100), ("cards", 50)])
def test_nothing_gets_through(home, kind, cases):
    results = fuzz.judged(fuzz.drawn(2026, kind, 0, cases), home)
    assert len(results) == cases
    assert [(case.arguments, verdict) for case, verdict in results if verdict.failure] == []
    if kind == "parquet":
        assert sum(verdict.outcome == "exit 0" for _, verdict in results) >= 0.3 * cases
        assert sum(case.oracle and verdict.outcome == "exit 0" for case, verdict in results) >= 20


def test_the_judge_notices(home, monkeypatch):
    """A traceback, a second sentence, something left behind, and pairs that are not those of the files."""
    from jobs.measure.fuzz import judge
    from jobs.measure.fuzz.parquet import Case

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        case = Case("generated", {}, ["ingest"], False)
        assert judge.fault(case, 3, "gcnrec: no\n", work, set()) is None
        assert judge.fault(case, 1, "Traceback (most recent call last)\nValueError: 3\n", work, set()).startswith("traceback")
        assert judge.fault(case, 7, "", work, set()) == "exit code 7"
        assert judge.fault(case, 3, "gcnrec: no\ngcnrec: no\n", work, set()).startswith("2 sentences")
        (work / "out").mkdir()
        assert judge.fault(case, 3, "gcnrec: no\n", work, set()) == "left behind: ['out']"
        (work / "out").rmdir()
        monkeypatch.chdir(work)
        pq.write_table(pa.table(PAIRS), "train.parquet")
        flags = ["--user", "user", "--item", "item", "--valid-size", "0", "--keep-cold"]
        assert judge.call(["ingest", "--train", "train.parquet", *flags, "--out", "out"])[0] == 0
        whole = Case("generated", {"train.parquet": b""}, ["ingest"], True)
        assert judge.wrong_data(whole, work) is None
        pq.write_table(pa.table({**PAIRS, "item": ["a", "b", "b", "c"]}), "train.parquet")
        assert judge.wrong_data(whole, work) == "2 pairs differ from the files"


def test_times_at_both_ends_of_64_bits(gcnrec, workplace):
    pq.write_table(pa.table({**PAIRS, "time": np.array([-(2**63), 0, 2**63 - 1, 2**63 - 1])}), workplace / "train.parquet")
    flags = ["--train", "train.parquet", "--user", "user", "--item", "item", "--time", "time", "--out", "data"]
    code, _, err = gcnrec("ingest", *flags, "--split", "temporal", "--test-size", "0.4", "--valid-size", "0")
    assert code == 0, err


def test_a_condition_beside_a_column_that_duckdb_does_not_know(gcnrec, workplace):
    pq.write_table(pa.table({**PAIRS, "half": pa.array(np.ones(4, np.float16))}), workplace / "train.parquet")
    flags = ["--train", "train.parquet", "--user", "user", "--item", "item", "--out", "data", "--valid-size", "0"]
    assert gcnrec("ingest", *flags, "--where", "time < 3")[0] == 0


def test_no_list_length(gcnrec, workplace):
    (workplace / "job.toml").write_text("[evaluate]\nk = []\n")
    code, _, err = gcnrec("check", "job.toml", "--data", "nowhere")
    assert code == 2 and "evaluate.k" in err and "\n" not in err.strip()


def test_a_column_name_that_is_no_text(gcnrec, workplace):
    pq.write_table(pa.table({"user": [1, 2], "itemid": [1, 2]}), workplace / "whole.parquet", store_schema=False)
    whole = (workplace / "whole.parquet").read_bytes()
    at = whole.index(b"\x18\x06itemid") + 2  # its name in the schema
    (workplace / "train.parquet").write_bytes(whole[:at] + b"\xed" + whole[at + 1 :])
    code, _, err = gcnrec("ingest", "--train", "train.parquet", "--user", "user", "--item", "itemid", "--out", "data")
    assert code == 3 and "Traceback" not in err and err.count("\n") == 1, err


def test_a_column_that_may_be_null_and_says_that_it_may_not(home):
    """Arrow ends the process when it is asked for what such a file's row groups say of the column."""
    from jobs.measure.fuzz.parquet import Case

    sink = io.BytesIO()
    pq.write_table(pa.table(PAIRS), sink, store_schema=False)
    whole = bytearray(sink.getvalue())
    optional = whole.index(b"\x25\x02\x18\x04user") + 1  # repetition_type, before the name in the schema
    whole[optional] = 0
    flags = ["--train", "train.parquet", "--user", "user", "--item", "item", "--out", "out"]
    [(_, verdict)] = fuzz.judged([Case("mutated bytes", {"train.parquet": bytes(whole)}, ["ingest", *flags])], home)
    assert (verdict.outcome, verdict.failure) == ("exit 3", None)


def test_a_temperature_near_zero(gcnrec, workplace):
    (workplace / "job.toml").write_text("[loss]\ntemperature = 1e-300\n")
    code, _, err = gcnrec("check", "job.toml", "--data", "nowhere")
    assert code == 2 and "loss.temperature" in err
