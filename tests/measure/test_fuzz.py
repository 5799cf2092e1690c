"""A few hundred cases of jobs/measure/fuzz, and what the job found in its long runs."""

from __future__ import annotations

import io
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.measure.fuzz import __main__ as fuzz
from jobs.measure.fuzz.cases.case import Case, Damage, damage

PAIRS = {"user": [1, 1, 2, 3], "item": ["a", "b", "b", "a"], "time": [0, 1, 2, 3]}


CASES = {"parquet": 40, "jobs": 15, "cards": 15, "datasets": 16, "runs": 12, "requests": 12, "paths": 8, "settings": 12}
CASES |= {"conditions": 12, "sources": 10}


@pytest.fixture(scope="module")
def slot():
    with fuzz.slots(1) as ready:
        yield ready[0]


@pytest.mark.parametrize("family", CASES)
def test_nothing_gets_through(slot, family):
    results = fuzz.campaign([slot], [(family, 0, CASES[family])], 2026, float("inf"))
    assert len(results) == CASES[family]
    assert [(case.arguments, case.damages, verdict) for _, case, verdict in results if verdict.failure] == []
    refused = sum(verdict.outcome != "exit 0" for _, _, verdict in results)
    assert 0 < refused < len(results) or family in ("cards", "jobs", "settings", "conditions")  # which are refused nearly always


def test_every_family_has_its_share_and_any_beginning_has_some_of_each():
    batches = fuzz.plan(1000, list(fuzz.SHARES))
    assert sum(count for _, _, count in batches) == 1000
    assert {family for family, _, _ in batches[: len(fuzz.SHARES)]} == set(fuzz.SHARES) == set(CASES)


def test_a_bound_on_time_ends_a_campaign(slot):
    assert fuzz.campaign([slot], [("conditions", 0, 5)], 0, 0.0) == []


@pytest.fixture
def judged():
    """The fault of a command by what it ended with; no file changes but `changed`."""
    from jobs.measure.fuzz import judge

    def found(code, printed, changed=(), command="ingest", writes=()):
        case = Case("generated", {}, [command, "--out", "out"], writes=writes)
        return judge.fault(case, code, printed, set(changed))

    return found


def test_the_judge_notices_how_a_command_ends(judged):
    assert judged(3, "gcnrec: no\n") is None
    assert judged(1, "Traceback (most recent call last)\nValueError: 3\n").startswith("traceback")
    assert judged(7, "") == "exit code 7"
    assert judged(3, "gcnrec: no\ngcnrec: no\n").startswith("2 sentences")


def test_the_judge_notices_what_a_command_writes(judged):
    assert judged(0, "", ["here/out/x", "home/.cache/gcnrec/x"]) is None
    assert judged(3, "gcnrec: no\n", ["here/out"]) == "left behind: ['here/out']"
    assert judged(0, "", ["outside/owned.csv"]) == "outside of what it may write: ['outside/owned.csv']"
    assert judged(0, "", ["here/dense/.a.7@host.part"], "evaluate", ("dense/",)).startswith("half-written")
    assert judged(5, "gcnrec: no\n", ["here/dense/metrics.jsonl"], "train", ("dense/",)) is None


def test_the_judge_notices_pairs_that_are_not_those_of_the_files(monkeypatch, tmp_path):
    from jobs.measure.fuzz import judge
    from jobs.measure.fuzz.command import call

    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table(PAIRS), "train.parquet")
    flags = ["--user", "user", "--item", "item", "--valid-size", "0", "--keep-cold"]
    assert call(["ingest", "--train", "train.parquet", *flags, "--out", "out"])[0] == 0
    whole = Case("generated", {"train.parquet": b""}, ["ingest"], True)
    assert judge.wrong_data(whole, tmp_path) is None
    pq.write_table(pa.table({**PAIRS, "item": ["a", "b", "b", "c"]}), "train.parquet")
    assert judge.wrong_data(whole, tmp_path) == "2 pairs differ from the files"


def test_the_judge_notices_other_lists(slot):
    """The twin of a case that drops two candidates has other lists."""
    world = ("data", "dense", "pairs.csv", "users.csv")
    asked = ["recommend", "dense", "--k", "5", "--out", "out.parquet", "--users"]
    twin = Case("sound", {}, [*asked, "users.csv"], world=world)
    same = Case(
        "same",
        {"again.csv": b"user\n" + b"".join(b"%d\n" % user for user in range(0, 60, 3))},
        [*asked, "again.csv"],
        world=world,
        twin=twin,
    )
    other = Case("other", {"again.csv": b"user\n3\n6\n"}, [*asked, "again.csv"], world=world, twin=twin)
    assert slot.judged(same).failure is None
    assert slot.judged(other).failure.startswith("silent difference of recommend")


def test_a_damaged_file_can_keep_its_time_and_its_place(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(bytes(range(64)))
    os.utime(path, ns=(10**18, 10**18))
    before = path.stat()
    damage(Damage("x.bin", "flip", 7), tmp_path, keep_time=True)
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (before.st_ino, 10**18, 64)
    assert sum(one != other for one, other in zip(path.read_bytes(), range(64), strict=True)) == 1


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


def test_a_column_that_may_be_null_and_says_that_it_may_not(slot):
    """Arrow ends the process when it is asked for what such a file's row groups say of the column."""
    sink = io.BytesIO()
    pq.write_table(pa.table(PAIRS), sink, store_schema=False)
    whole = bytearray(sink.getvalue())
    optional = whole.index(b"\x25\x02\x18\x04user") + 1  # repetition_type, before the name in the schema
    whole[optional] = 0
    flags = ["--train", "train.parquet", "--user", "user", "--item", "item", "--out", "out"]
    verdict = slot.judged(Case("mutated bytes", {"train.parquet": bytes(whole)}, ["ingest", *flags]))
    assert (verdict.outcome, verdict.failure) == ("exit 3", None)


def test_a_temperature_near_zero(gcnrec, workplace):
    (workplace / "job.toml").write_text("[loss]\ntemperature = 1e-300\n")
    code, _, err = gcnrec("check", "job.toml", "--data", "nowhere")
    assert code == 2 and "loss.temperature" in err
