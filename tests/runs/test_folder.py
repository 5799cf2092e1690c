"""The run folder: what happened, embeddings by original id, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gcnrec.config import Job
from gcnrec.errors import DataError, UsageError
from gcnrec.ranking.export_rules import Exported, ExportRule
from gcnrec.runs.checkpoints import save_checkpoint
from gcnrec.runs.contents import RunContents
from gcnrec.runs.documents import read_json
from gcnrec.runs.embeddings import map_embeddings, read_column, read_export, write_embeddings
from gcnrec.runs.events import append_event, keep_events, read_events, read_lines
from gcnrec.runs.folder import describe_run, final_table, make_folder, open_run, with_valid
from gcnrec.testing import checkerboard, empty_rows, write_dataset

JOB = Job.parse({"model": {"width": 8}, "train": {"seed": 7}}, [], "test")


def begin_run(folder, job, dataset):
    make_folder(folder)
    describe_run(folder, job, dataset, "cpu")


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(checkerboard(), tmp_path / "data")


def test_a_run_opens_as_it_was_begun(tmp_path, dataset):
    begin_run(tmp_path / "run", JOB, dataset)
    run = open_run(tmp_path / "run")
    assert run.job == JOB and run.dataset.digest == dataset.digest and not run.refitted
    assert run.lineage["format"] == 1 and run.lineage["machine"]["torch"]
    assert run.train_graph.num_edges == dataset.graph.num_edges


def test_a_run_folder_is_never_overwritten(tmp_path, dataset):
    (tmp_path / "run").mkdir()
    with pytest.raises(UsageError, match="never overwritten"):
        begin_run(tmp_path / "run", JOB, dataset)
    assert list((tmp_path / "run").iterdir()) == []


def test_what_is_no_run_is_refused(tmp_path, dataset):
    with pytest.raises(DataError, match="not a run folder"):
        open_run(dataset.folder)
    begin_run(tmp_path / "run", JOB, dataset)
    (tmp_path / "run" / "manifest.json").unlink()
    lineage = read_json(tmp_path / "run" / "lineage.json")
    (tmp_path / "run" / "lineage.json").write_text(json.dumps({**lineage, "format": 2}))
    with pytest.raises(DataError, match="format 1, got 2"):
        open_run(tmp_path / "run")
    (tmp_path / "run" / "lineage.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        open_run(tmp_path / "run")


def test_a_changed_dataset_is_noticed(tmp_path, dataset):
    begin_run(tmp_path / "run", JOB, dataset)
    dataset.folder.rename(tmp_path / "old")
    write_dataset(empty_rows(), dataset.folder)
    with pytest.raises(DataError, match="has changed"):
        open_run(tmp_path / "run")


def test_metrics_that_are_not_there_say_how_to_make_them(tmp_path, dataset):
    begin_run(tmp_path / "run", JOB, dataset)
    with pytest.raises(UsageError, match="--split valid"):
        open_run(tmp_path / "run").metrics("valid")


def test_with_valid_merges_repeats_and_keeps_numbers(dataset, tmp_path):
    graph = with_valid(dataset)
    world = checkerboard()
    assert graph.num_edges == len({*world.train, *world.valid})
    assert (graph.num_users, graph.num_items) == (world.num_users, world.num_items)
    without = write_dataset(empty_rows(), tmp_path / "other")
    assert with_valid(without) is without.graph


def test_an_unfinished_run_gives_no_table(tmp_path, dataset):
    begin_run(tmp_path / "run", JOB, dataset)
    save_checkpoint(tmp_path / "run" / "checkpoints" / "best.safetensors", {"table.weights": torch.zeros(48, 8)}, {"epoch": 1})
    with pytest.raises(UsageError, match="not finished"):
        final_table(open_run(tmp_path / "run"))


def test_embeddings_keep_ids_and_values(tmp_path, dataset):
    rows = torch.randn(48, 5, generator=torch.Generator().manual_seed(0))
    column, lengths = torch.arange(24.0), torch.arange(1.0, 25.0)
    rule = ExportRule("theory", 0.5)
    write_embeddings(tmp_path, dataset, Exported(rule, rows[:24], rows[24:], column, 0.25, lengths))
    users, items = (pq.read_table(tmp_path / "embeddings" / f"{side}.parquet") for side in ("users", "items"))
    assert users.schema.field("id").type == pa.string() and items.schema.field("id").type == pa.int64()
    assert users.schema.field("embedding").type == pa.list_(pa.float32(), 5)
    assert users.column("id").to_pylist() == [f"u{user}" for user in range(24)]
    assert np.array(items.column("embedding").to_pylist(), np.float32).tolist() == rows[24:].tolist()
    assert torch.equal(map_embeddings(tmp_path / "embeddings" / "users.parquet", dataset.user_ids, tmp_path), rows[:24])
    assert items.column("popularity").to_pylist() == column.tolist() and items.column("length").to_pylist() == lengths.tolist()
    assert users.column_names == ["id", "embedding"]
    for side in ("users", "items"):
        said = read_export(tmp_path / "embeddings" / f"{side}.parquet")
        assert said == {"kind": "theory", "factor": 0.5, "popularity_factor": 0.25}


def test_embeddings_of_earlier_versions_rank_by_the_inner_product(tmp_path):
    path = tmp_path / "users.parquet"
    pq.write_table(pa.table({"id": ["a"], "embedding": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))}), path)
    assert read_export(path) == {"kind": "inner", "factor": 1.0, "popularity_factor": 0.0}
    assert read_column(path, "popularity") is None and read_column(path, "length") is None


def test_events_are_lines(tmp_path):
    append_event(tmp_path, {"event": "epoch", "loss": 0.5})
    append_event(tmp_path, {"event": "epoch", "loss": 0.25})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [0.5, 0.25]


def test_a_line_that_was_cut_short_spoils_no_other(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"event": "note"}\n{"event": {}')
    append_event(tmp_path, {"event": "epoch"})
    append_event(tmp_path, {"event": "baseline"})
    assert [event["event"] for event in read_lines(tmp_path)] == ["note", "epoch", "baseline"]


def test_what_came_after_a_checkpoint_and_cut_lines_are_dropped(tmp_path):
    keep_events(tmp_path, "fit", 0, 0)  # nothing to keep yet
    done = [("fit", 1), ("fit", 2), ("fit", 3), ("refit", 1), ("refit", 2)]
    for stage, epoch in done:
        append_event(tmp_path, {"event": "explore", "stage": stage, "epoch": epoch, "step": 10 * epoch - 3})
        append_event(tmp_path, {"event": "epoch", "stage": stage, "epoch": epoch})
    append_event(tmp_path, {"event": "baseline", "name": "gfcf"})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "epo')
    for stage, epoch, step, epochs, explorations in (
        ("refit", 1, 17, 4, 5), ("refit", 1, 16, 4, 4), ("fit", 2, 27, 2, 3), ("fit", 2, 26, 2, 2), ("fit", 0, 0, 0, 0),
    ):  # fmt: skip
        keep_events(tmp_path, stage, epoch, step)
        *kept, baseline = read_lines(tmp_path)
        for kind, left in (("epoch", epochs), ("explore", explorations)):
            assert [(event["stage"], event["epoch"]) for event in kept if event["event"] == kind] == done[:left]
        assert baseline["name"] == "gfcf"


def test_a_last_line_without_its_end_is_ended(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"event": "note"}')
    keep_events(tmp_path, "fit", 0, 0)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"event": "note"}\n'


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("[1]", "line 2 of .*metrics.jsonl is damaged"),
        (
            '{"loss": 0.5}',
            r"line 2 of .*metrics.jsonl is damaged \(event: field required\); restore the file, or",
        ),
        ('{"event": "epoch", "epoch": 1, "seconds": 1.0}', r"line 2 .* \(loss: field required\)"),
        ('{"event": "epoch", "epoch": 1, "seconds": "long", "loss": 1}', r"line 2 .* \(seconds: input should be a valid number"),
        ('{"event": "baseline", "name": "ease", "metrics": {"recall@20": [1]}}', r"line 2 .* \(metrics.recall@20: "),
    ],
)
def test_a_damaged_event_is_one_sentence_that_names_the_line(tmp_path, line, problem):
    (tmp_path / "metrics.jsonl").write_text(f'{{"event": "note", "text": "fine"}}\n{line}\n')
    with pytest.raises(DataError, match=problem) as error:
        read_events(tmp_path)
    assert "\n" not in str(error.value)


def test_a_damaged_document_is_one_sentence_that_names_the_file(tmp_path):
    contents = RunContents(tmp_path)
    (tmp_path / "metrics.json").write_text('{"split": "test", "intervals": {"recall@20": [0.1]}}')
    with pytest.raises(DataError, match=r"metrics.json is damaged \(intervals.recall@20.1: field required\)"):
        contents.metrics_of("test")
    for text, problem in (("[]", "must hold a JSON object, holds list"), ("{", "cannot be read as JSON")):
        (tmp_path / "memory.json").write_text(text)
        with pytest.raises(DataError, match=f"memory.json {problem}"):
            _ = contents.memory


def test_unknown_keys_and_kinds_of_events_are_kept(tmp_path):
    known = {"event": "epoch", "stage": "fit", "epoch": 1, "step": 7, "seconds": 2.0, "loss": 0.5, "mood": {"deep": [1]}}
    foreign = {"event": "holiday", "days": 3}
    append_event(tmp_path, known)
    append_event(tmp_path, foreign)
    assert [event.model_dump(exclude_unset=True) for event in read_events(tmp_path)] == [known, foreign]
    keep_events(tmp_path, "fit", 1, 7)
    assert read_lines(tmp_path) == [known, foreign]
