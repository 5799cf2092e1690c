"""Files of an earlier version, `tests/old`: opened, evaluated, compared, resumed to the end, and the names in them.

Numbers are equal bit for bit where made.json tells of this very processor and these versions; elsewhere within tolerances.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from slot_reader import read_slots

from gcnrec.config import Job
from gcnrec.loaders.features.encode import encode_features
from gcnrec.loaders.schema import open_dataset
from gcnrec.runs.checkpoints import load_checkpoint
from gcnrec.runs.events import read_lines
from gcnrec.runs.folder import final_table, open_run
from gcnrec.runs.slot_files import order_digest
from gcnrec.tables.slots import dense_rows
from gcnrec.training.train import train, use_threads
from jobs.measure.kill import digests as run_digests

OLD = Path(__file__).parent / "old"
LASTING = ("epoch", "explore", "baseline", "baseline.valid")
"""Events that a resumed run tells as one that was never stopped."""
EVALUATED = ("dense", "slots", "graphsage", "closed", "resumed")
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
"""Of values after a few steps: other instructions add float32 in another order, which changes the last bits. With SSE2 alone
embeddings, of length 1, differ by 1e-6 at most; where optimizer state is lost, or a step, by 0.01 and more."""


def words(text, before=""):
    return {before + word for word in text.split()}


def below(before, names):
    return {before + name for name in names}


PER_USER = words("recall@5 recall_capped@5 ndcg@5 precision@5 hit_rate@5 mrr@5 map@5 novelty@5")
MEANS = PER_USER | words("coverage@5 gini@5")
LEAKAGE = words("train_after_first_valid valid_before_own_train valid_before_any_train", "leakage_") | words(
    "train_after_first_test test_before_own_train test_before_any_train", "leakage_"
)
FEATURES = words("rows width") | words("column rule width first mean scale", "columns[].")
IDS, PAIRS = words("id number degree"), words("user item time weight")
DATA = {
    "dataset.json": words("format name num_users num_items num_train num_valid num_test split seed digest")
    | words("user item train time time_unit weight duplicates k_core split seed valid_size test_size warm_size", "data.")
    | words("repeats keep_cold item_features user_features text_width memory_limit", "data.")
    | words("sha256 bytes shape dtype", "files[].")
    | below("user_features.", FEATURES)
    | below("item_features.", FEATURES | words("values counts words file", "columns[]."))
    | words("rows_train filtered_train duplicates_train duplicates_valid duplicates_test lines", "report.")
    | words("repeats_valid repeats_test cold_valid cold_users_valid cold_items_valid", "report.")
    | words("cold_test cold_users_test cold_items_test user_features_missing user_features_unknown", "report.")
    | words("item_features_missing item_features_unknown", "report.")
    | below("report.", LEAKAGE),
    "users.parquet": IDS,
    "items.parquet": IDS,
    "valid.parquet": PAIRS,
    "test.parquet": PAIRS,
    "user_items.indptr.npy": {"int64"},
    "user_items.indices.npy": {"int32"},
    "item_users.indptr.npy": {"int64"},
    "item_users.indices.npy": {"int32"},
    "times.npy": {"int64"},
    "weights.npy": {"float32"},
    "user_features.npy": {"float32"},
    "item_features.npy": {"float32"},
    "item_features.2.parquet": words("word idf vector"),
}
BEGUN = {
    "job.toml": words("data model table sampler loss optimizer sparsity train mixture evaluate run"),
    "lineage.json": words("format created command working_directory gcnrec libraries threads device environment")
    | words("name folder digest", "data.")
    | below("data.", LEAKAGE)
    | words("cpu cores memory_gib system python torch numba numpy scipy pyarrow duckdb gcnrec", "machine."),
}
JUDGED = words("split users export") | MEANS | below("intervals.", PER_USER)
DECILES = words("decile items min_degree max_degree held_out hits@5 recall@5", "deciles[].")
MEASURED = {
    "metrics.json": JUDGED | DECILES,
    "per_user.parquet": words("user degree num_held_out metadata.split metadata.digest") | PER_USER,
}
EMBEDDINGS = words("id embedding metadata.gcnrec kind factor popularity_factor")
TRAINED = {
    "memory.json": words("budget_values values values_max_seen value_bytes index_bytes state_bytes peak_table_bytes")
    | words("peak_rss_bytes scratch_bytes served_bytes dense_bytes"),
    "embeddings/users.parquet": EMBEDDINGS,
    "embeddings/items.parquet": EMBEDDINGS | words("popularity length"),
}
PROGRESS = (
    words("format sha256 progress", "header.")
    | words("stage epoch step best_epoch best_value waited seconds", "progress.")
    | words("loss rows seconds stalled_seconds traffic", "progress.sums.")
    | words("count running start lowest", "progress.trend.")
)
DENSE = PROGRESS | words("weights state last", "table.")
SLOTS = PROGRESS | words("counts columns values location most moments scalars last", "table.") | {"explorer.ever_active"}
LAYERS = words("inputs.projections.0.weight inputs.projections.1.weight inputs.biases.0 inputs.biases.1", "layers.") | {
    f"layers.convolutions.{layer}.lin_{part}" for layer in (0, 1) for part in ("l.weight", "l.bias", "r.weight")
}
ADAM = {f"adam.{parameter}.{part}" for parameter in range(10) for part in ("step", "exp_avg", "exp_avg_sq")}
TABLE = words("counts columns values") | words("format version num_rows width budget_values dtype order", "header.")
RULES = ("cosine", "inner", "0.5 theory", "0.75 theory", "1.25 theory")
EVENTS = {
    "epoch": words("stage epoch step seconds loss rows_per_second learning_rate stalled_share values")
    | below("valid.", MEANS)
    | {f"exports.{rule}.{part}" for rule in RULES for part in ("value", "gain", "error")},
    "explore": words("stage epoch step pruned grown regrown values ever_active slots_per_row_by_decile seconds scratch_bytes"),
    "resume": words("stage epoch step time"),
    "note": {"text"},
    "baseline": words("name cold_start") | below("metrics.", MEANS),
    "baseline.valid": words("name users own difference low high seconds") | below("metrics.", MEANS),
    "warning": words("kind text"),
}


def told(*events):
    return {"metrics.jsonl": {f"{event}: {name}" for event in events for name in EVENTS[event]}}


def saved(tensors, *earlier):
    names = ("best", "last", *(f"earlier-{name}" for name in earlier))
    return {f"checkpoints/{name}.safetensors": tensors for name in names}


FIT = {"per_user.fit.parquet": MEASURED["per_user.parquet"] - words("metadata.split metadata.digest")}
NAMES = {
    "data": DATA,
    "dense": BEGUN
    | MEASURED
    | TRAINED
    | FIT
    | told("epoch", "note", "baseline.valid", "baseline")
    | saved(DENSE, "fit-000001-000000004", "fit-000002-000000000")
    | saved(DENSE, "refit-000000-000000005", "refit-000001-000000000", "refit-000001-000000003")
    | {
        "mixture.json": words("name weight temperature partners.linkprop chosen.by"),
        "mixture/linkprop.safetensors": words("indptr indices values"),
        "metrics.json": JUDGED | DECILES | {"mixture"},
    },
    "slots": BEGUN
    | MEASURED
    | TRAINED
    | FIT
    | told("epoch", "explore", "baseline.valid", "warning", "baseline")
    | saved(SLOTS, "fit-000002-000000004")
    | {"table.safetensors": TABLE},
    "graphsage": BEGUN | MEASURED | TRAINED | told("epoch") | saved(DENSE | LAYERS | ADAM, "fit-000002-000000004"),
    "closed": BEGUN
    | MEASURED
    | {"metrics.json": JUDGED - {"export"} | DECILES, "model.safetensors": words("neighbours similarity")},
    "interrupted": BEGUN | told("epoch", "explore") | saved(SLOTS, "fit-000001-000000002"),
    "resumed": BEGUN
    | MEASURED
    | TRAINED
    | told("epoch", "explore", "resume")
    | saved(SLOTS, "fit-000003-000000006")
    | {"table.safetensors": TABLE},
}
"""Every file of a folder, and every name in it."""
HOLDERS = ("gcnrec", "libraries", "environment", "dtype")
"""Of names that are those of a machine, or of columns."""


@pytest.fixture(scope="module")
def make():
    """The script beside the files, by its path: tests are no package."""
    spec = importlib.util.spec_from_file_location("make", OLD / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def digests():
    return run_digests


@pytest.fixture(scope="module", autouse=True)
def _as_the_files_were_made():
    """On one thread. No file waits for the disk, as nothing here is about a machine that dies."""
    with pytest.MonkeyPatch.context() as patch, use_threads(1):
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="module")
def old(make, tmp_path_factory):
    """A copy of the folder whose texts name where it lies; tests leave it as it is."""
    folder = shutil.copytree(OLD, tmp_path_factory.mktemp("old") / "old")
    make.replace_in_texts(folder, make.HERE, str(folder))
    return folder


@pytest.fixture
def copied(old, tmp_path):
    """Copies a run to where a test may change it."""
    return lambda name: shutil.copytree(old / name, tmp_path / name)


@pytest.fixture(scope="module")
def exact(make):
    """Whether bits must be those of the files."""
    return make.made_with() == document(OLD / "made.json")


@pytest.fixture(scope="module")
def again(make, tmp_path_factory):
    """The same dataset and runs, made by this version."""
    folder = tmp_path_factory.mktemp("again")
    make.build(folder)
    return folder


def document(path):
    return json.loads(path.read_text())


def figures(tree, name=""):
    """Every leaf of a JSON document by where it is."""
    if not isinstance(tree, dict | list):
        return {name: tree}
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {leaf: value for key, part in pairs for leaf, value in figures(part, f"{name}/{key}").items()}


def assert_told(found, kept, exact):
    """Documents of equal names and texts, and of equal figures: means over users, which another order of sums hardly moves."""
    assert found == kept if exact else figures(found) == pytest.approx(figures(kept), abs=1e-6)


def assert_same_end(found, kept, exact, digests):
    """Whatever a run leaves behind but times; where bits may differ, embeddings, losses and what explorations saw."""
    if exact:
        now, before = content(found, digests), content(kept, digests)
        assert now.keys() == before.keys()
        for name, one in before.items():
            assert _without_later_keys(now[name], one) == one, name
        return
    for side in ("users", "items"):
        tables = [pq.read_table(folder / "embeddings" / f"{side}.parquet") for folder in (found, kept)]
        assert tables[0].column("id") == tables[1].column("id")
        np.testing.assert_allclose(*(table.column("embedding").combine_chunks().flatten() for table in tables), **TOLERANCE)
    for kind, name in (("epoch", "loss"), ("explore", "ever_active")):
        told = [[event[name] for event in read_lines(folder) if event["event"] == kind] for folder in (found, kept)]
        np.testing.assert_allclose(*told, **TOLERANCE)


def content(folder, digests):
    """What runs of one job have in common, by file; digests know no bfloat16, and events come in the order of stops."""
    held = {}
    for path in filter(Path.is_file, folder.rglob("*")):
        if path.name == "manifest.json":  # earlier versions have none
            continue
        match path.suffix:
            case ".safetensors":
                one = tensors(path, digests)
            case ".jsonl":
                texts = sorted(digests._text(event).decode() for event in read_lines(folder) if event["event"] in LASTING)
                one = [json.loads(text) for text in texts]
            case ".json" if path.name.startswith("metrics"):
                one = document(path)
            case ".toml":
                one = tomllib.loads(path.read_text())
            case ".parquet" if path.name.startswith("per_user"):
                one = pq.read_table(path).replace_schema_metadata().to_pydict()
            case _:
                one = digests.digest_of(path)
        held[str(path.relative_to(folder))] = one
    return held


def _without_later_keys(found, kept):
    """`found` without the keys of documents that `kept` lacks: later versions tell more."""
    if isinstance(found, dict) and isinstance(kept, dict):
        return {key: _without_later_keys(value, kept[key]) for key, value in found.items() if key in kept}
    if isinstance(found, list) and isinstance(kept, list) and len(found) == len(kept):
        return [_without_later_keys(*pair) for pair in zip(found, kept, strict=True)]
    return found


def tensors(path, digests):
    """Every tensor's bytes, and the progress without times."""
    with safe_open(path, framework="pt") as file:
        whole = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        progress = digests._text(json.loads((file.metadata() or {}).get("progress", "{}")))
    raw = {name: tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for name, tensor in whole.items()}
    return {"progress": progress} | {name: (whole[name].dtype, whole[name].shape, raw[name]) for name in raw}


def names_in(path):
    """The names that a file gives to what it holds."""
    match path.suffix:
        case ".json":
            whole = document(path)
            return set(leaves({**whole, "files": [*whole["files"].values()]} if "files" in whole else whole))
        case ".jsonl":
            events = [(event.pop("event"), event) for event in read_lines(path.parent)]
            return {f"{kind}: {name}" for kind, event in events for name in leaves(event)}
        case ".toml":
            return set(tomllib.loads(path.read_text()))
        case ".npy":
            return {str(np.load(path, mmap_mode="r").dtype)}
        case ".parquet":
            schema = pq.read_schema(path)
            about = {key.decode(): value for key, value in (schema.metadata or {}).items()}
            return {*schema.names, *below("metadata.", about), *json.loads(about.get("gcnrec", "{}"))}
        case ".safetensors":
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                progress = leaves(json.loads(header.get("progress", "{}")))
                return {*file.keys(), *below("header.", header), *below("progress.", progress)}
    return set()


def leaves(tree, before=""):
    """`a.b` for a key within a key, `a[].b` for one within each of a list."""
    for key, part in tree.items():
        if isinstance(part, dict) and part and key not in HOLDERS:
            yield from leaves(part, f"{before}{key}.")
        elif isinstance(part, list) and part and isinstance(part[0], dict):
            yield from (leaf for each in part for leaf in leaves(each, f"{before}{key}[]."))
        else:
            yield before + key


def named(folder):
    """File -> names in it."""
    return {str(path.relative_to(folder)): names_in(path) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", NAMES)
def test_the_names_in_files_are_these(name):
    assert named(OLD / name) == NAMES[name]


@pytest.mark.parametrize("name", NAMES)
def test_this_version_writes_every_name_still(name, again):
    """It may write more. A name that it lacks is one that it has renamed, and old files are read by."""
    found = named(again / name)
    lacking = {file: names - found.get(file, set()) for file, names in NAMES[name].items()}
    assert {file: names for file, names in lacking.items() if names} == {}


def test_the_dataset_is_whole_and_its_rules_still_encode_its_items(old, make, tmp_path):
    dataset = open_dataset(old / "data", verify=True)
    assert (dataset.graph.num_users, dataset.graph.num_items) == (make.USERS, make.ITEMS)
    for part in (dataset, dataset.valid, dataset.test):
        assert part.times_E.min() > make.BEGIN and {*part.weights_E.tolist()} == {1.0, 2.0, 3.0}
    data = make.write_inputs(tmp_path / "inputs")
    for side, path, ids, rows in (
        ("item", data.item_features, dataset.item_ids, dataset.item_features),
        ("user", data.user_features, dataset.user_ids, dataset.user_features),
    ):
        encoded = encode_features(dataset, side, path)
        np.testing.assert_allclose(encoded.rows_RF, rows[ids.numbers(encoded.ids)], atol=1e-6)


@pytest.mark.parametrize("name", EVALUATED)
def test_a_run_evaluates_to_what_it_did(name, old, copied, gcnrec, exact):
    run = copied(name)
    code, out, err = gcnrec("evaluate", run, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found.pop("seen") == "all"  # which earlier versions did not write
    kept = document(old / name / "metrics.json")
    assert found.pop("long_tail@5") >= 0.0  # which is younger
    assert_told(found, kept, exact)
    assert read_lines(run) == read_lines(old / name)  # what it was warned of is not told again


def test_runs_compare_as_they_did(old, gcnrec, make, exact):
    code, out, err = gcnrec("compare", *(old / name for name in make.FINISHED), "--json")
    assert code == 0, err
    assert_told(json.loads(out), document(old / "compare.json"), exact)


def kinds(folder):
    return {event["kind"] for event in read_lines(folder) if event["event"] == "warning"}


@pytest.fixture
def resume(gcnrec, old):
    def call(run):
        code, _, err = gcnrec("train", run / "job.toml", "--data", old / "data", "--out", run, "--resume")
        assert code == 0, err

    return call


def test_the_interrupted_run_resumes_to_the_end_that_it_had(old, copied, resume, gcnrec, exact, digests):
    run = copied("interrupted")
    held, progress = load_checkpoint(run / "checkpoints/last.safetensors")
    assert (progress["epoch"], progress["step"]) == (1, 4) and bool(held["explorer.ever_active"].any())
    resume(run)
    assert gcnrec("evaluate", run)[0] == 0
    assert_same_end(run, old / "resumed", exact, digests)


@pytest.mark.parametrize("name", ["dense", "slots", "graphsage"])
def test_an_earlier_checkpoint_leads_to_the_same_end(name, old, copied, resume, exact, digests):
    run = copied(name)
    last = run / "checkpoints/last.safetensors"
    last.write_bytes(last.read_bytes()[:-1])
    (run / "memory.json").unlink()  # a finished run is not trained again
    resume(run)
    assert kinds(run) - kinds(old / name) == {"damaged checkpoint", "circumstances"}  # which warns of other versions
    assert_same_end(run, old / name, exact, digests)


@pytest.mark.parametrize("name", ["dense", "closed"])
def test_a_finished_run_is_left_as_it_is(name, old, copied, resume, digests):
    run = copied(name)
    resume(run)
    assert digests.digests(run) == digests.digests(old / name)


def test_a_run_that_nobody_stops_ends_as_the_resumed_one(old, gcnrec, exact, digests, tmp_path):
    if not exact:
        pytest.skip("the steps before the stop were made on another processor, or with other versions")
    train(Job.load(old / "interrupted/job.toml"), open_dataset(old / "data"), tmp_path / "whole")
    assert gcnrec("evaluate", tmp_path / "whole")[0] == 0
    assert_same_end(tmp_path / "whole", old / "resumed", exact, digests)


@pytest.mark.parametrize("name", ["slots", "resumed"])
def test_the_table_of_a_sparse_run_is_that_of_its_best_epoch(name, old, make):
    run, nodes = open_run(old / name), make.USERS + make.ITEMS
    order = order_digest(run.dataset.user_ids, run.dataset.item_ids)
    table = read_slots(old / name / "table.safetensors", num_rows=nodes, width=16, budget=nodes * 8, order=order)
    assert torch.equal(dense_rows(table.tensors(), 16), final_table(run))


def test_a_run_starts_from_the_table_of_an_old_one(old, make, tmp_path):
    changes = ["train.epochs=1", "train.refit=false", "optimizer.learning_rate=1e-12", f"train.init_from={old / 'dense'}"]
    job = Job.load(old / "dense/job.toml", changes)
    run = train(job, open_dataset(old / "data"), tmp_path / "today")
    torch.testing.assert_close(final_table(run), final_table(open_run(old / "dense")))
    assert kinds(run.folder) == {"validation was trained on"}
