"""Files of ids as they come: text in any shape, Parquet of any type, pipes. The right ids, or one sentence."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.errors import DataError, Unforeseen
from gcnrec.interactions import MemoryVocabulary
from gcnrec.loaders.bounds.allowed import Allowed
from gcnrec.results import memory_bounds
from gcnrec.results.given.id_files import IdColumn, open_ids
from gcnrec.results.given.text_tables import PIPED_BYTES
from gcnrec.storage import streams

USERS = IdColumn(("user", "customer"), MemoryVocabulary(pa.array([101, 102, 103])), ("item",))
ITEMS = IdColumn(("item",), MemoryVocabulary(pa.array(["tea", "salt", 'a"b', "ü"])), ("user", "customer"))


def read(path, *columns):
    """The ids of the given columns, one list for each."""
    with open_ids(path) as table:
        found = table.pairs(*columns) if len(columns) == 2 else [table.ids(*columns)]
    return [ids.to_pylist() for ids in found]


def refused(path, *columns):
    with pytest.raises(DataError) as caught:
        read(path, *(columns or (USERS,)))
    message = str(caught.value)
    assert not isinstance(caught.value, Unforeseen) and message.startswith((str(path), f"no such file: {path}")), message
    assert message.isprintable() and len(message) < len(str(path)) + 500 and not message.endswith(".")
    return message.removeprefix(str(path))


@pytest.fixture
def text(tmp_path):
    def call(content, name="ids.csv"):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / name

    return call


@pytest.fixture
def parquet(tmp_path):
    def call(columns, name="ids.parquet"):
        table = pa.table(list(columns.values()), names=list(columns)) if isinstance(columns, dict) else columns
        pq.write_table(table, tmp_path / name)
        return tmp_path / name

    return call


@pytest.mark.parametrize(
    "content",
    [
        "user\n101\n999\n", "\ufeffuser\n101\n999\n", "user\r\n101\r\n999\r\n", "user\r101\r999\r",
        "user\n101\n999", "\n\nuser\n\n101\n\n\n999\n\n",
        '"user"\n"101"\n"999"\n', "user\n 101 \n+999\n", "x,user,y\n1,101,2\n3,999,4\n", 'user,x\n101,5" pipe\n999,7" nail\n',
        "customer\n101\n999\n", "who\n101\n999\n",
    ],
)  # fmt: skip
def test_a_text_is_read_whatever_its_lines_end_in(text, content):
    assert read(text(content), USERS) == [[101, 999]]


def test_text_ids_are_read_as_they_stand(text):
    content = 'item,user\ntea,101\n"a""b",102\nü,103\n"1,5",101\n'
    assert read(text(content), USERS, ITEMS) == [[101, 102, 103, 101], ["tea", 'a"b', "ü", "1,5"]]


def test_a_text_longer_than_a_piece_is_read_to_its_end(text):
    """Lines of every length, so that pieces end inside a line, and behind \\r of \\r\\n."""
    ids = np.random.default_rng(0).integers(0, 10 ** np.arange(1, 19).repeat(10_000))
    for end in ("\n", "\r\n", "\r"):
        content = end.join(["user", *map(str, ids)])
        assert read(text(content), USERS) == [ids.tolist()]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", " must be Parquet, or CSV with a header, it is empty"),
        (b"\n\r\n", " must be Parquet, or CSV with a header, it is empty"),
        (b"\xef\xbb\xbf", " must be Parquet, or CSV with a header, it is empty"),
        (b"user", " holds no rows; leave the option out"),
        (b"user\n\n\n", " holds no rows; leave the option out"),
        ("user\n101\n".encode("utf-16"), " must be text in UTF-8, it is UTF-16 or UTF-32 by its first bytes; save it as UTF-8"),
        ("user\n101\n".encode("utf-16-be"), " must be text in UTF-8, line 1 has a zero byte"),
        ("user\n101\n".encode("utf-32"), " must be text in UTF-8, it is UTF-16 or UTF-32 by its first bytes"),
        (b"user\n101\n10\0\n", " must be text in UTF-8, line 3 has a zero byte"),
        ("user,name\n101,René\n".encode("latin-1"), " must be text in UTF-8, line 2 has the byte 0xe9 that is none; save it as"),
        ("üser\n101\n".encode("latin-1"), " must be text in UTF-8, line 1 has the byte 0xfc that is none"),
        (b"user,x\n101,a\n102\n", " must have 2 columns in each line, as its header has (from line 2 on: CSV parse error: R"),
        (b"user,x\n101,a,b\n", " must have 2 columns in each line"),
        (b'user\n"101\n102\n', " must have each row in one line, a quote opened in or after line 2 goes on"),
        (b'user,x\n101,"a\n102,b"\n', " must have each row in one line"),
        (b'user,x\n101,"a\n102,b\n103,c\n', " must have each row in one line"),
        (b'"user\n101\n', " must begin with the names of its columns, its first line has none"),
        (b"user\n" + b"1" * 2_200_000 + b"\n", " must have lines of at most 1,048,576 bytes, line 2 is longer"),
        (b"user" + b"r" * 200_000 + b"\n101\n", " must begin with the names of its columns"),
        (b"," * 2000 + b"\n101\n", " must have at most 1,000 columns, it has 2,001"),
        (b"user,user\n101,102\n", " must have each column once, 'user' comes 2 times"),
        (b"user,,\n101,1,2\n", " must have each column once, '' comes 2 times"),
        (b"a,b\n101,1\n", " must have a column 'user' or 'customer', it has 'a', 'b'; rename or add one"),
        (b"user\tx\n101\t1\n", ": column 'user\\tx' must hold int64 ids ('101\\t1' is no integer"),
        (b"user\n\xd9\xa1\xd9\xa0\xd9\xa1\n", ": column 'user' must hold int64 ids ('\u0661\u0660\u0661' is no integer"),
        (b"user\n0x65\n", ": column 'user' must hold int64 ids (0x begins no integer"),
        (b"user\n" + b"9" * 5000 + b"\n", ": column 'user' must hold int64 ids ("),
        (b"user\n1e2\n", ": column 'user' must hold int64 ids ('1e2' is no integer"),
        (b"user,x\n101,1\nNULL,2\n", ": ids must not be null, 1 of column 'user' are; drop them"),
        (b"PAR1\0\0", " must be text, it is Parquet"),
    ],
)  # fmt: skip
def test_text_that_is_no_table_of_ids_is_one_sentence(text, content, sentence):
    assert refused(text(content), USERS).startswith(sentence)


def test_a_line_is_named_also_far_behind_the_begin(text):
    content = b"user\n" + b"101\r\n" * 400_000 + b"\xff\n"
    assert "line 400002 has the byte 0xff" in refused(text(content))


def test_a_pipe_is_read_as_text(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"user\n" + b"101\n" * 50_000,))
    thread.start()
    assert read(tmp_path / "pipe", USERS) == [[101] * 50_000]
    thread.join()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"PAR1", "it is Parquet; give the file"), (b"1" * (PIPED_BYTES + 9), "must hold at most 8,388,608 bytes")],
)
def test_a_pipe_that_brings_too_much_or_parquet_is_one_sentence(tmp_path, content, sentence):
    def write():
        with suppress(BrokenPipeError), (tmp_path / "pipe").open("wb") as end:
            end.write(content)

    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=write)
    thread.start()
    assert sentence in refused(tmp_path / "pipe")
    thread.join()


def test_what_is_no_file_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "PIPE_SECONDS", 0.01)
    os.mkfifo(tmp_path / "pipe.parquet")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    (tmp_path / "gone.csv").symlink_to(tmp_path / "absent")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("socket")
        assert "cannot be read" in refused(tmp_path / "socket")
    assert "must be a Parquet file or CSV ending in .csv, is a pipe or a device" in refused(tmp_path / "pipe.parquet")
    assert "must be a file, is a folder" in refused(tmp_path / "folder.csv")
    assert "must be a Parquet file or CSV ending in .csv, is a folder" in refused(tmp_path)
    assert (
        refused(tmp_path / "gone.csv")
        == f"no such file: {tmp_path / 'gone.csv'}; ids come in a file, Parquet or CSV with a header"
    )
    assert (
        refused(tmp_path / "loop.csv")
        == f"no such file: {tmp_path / 'loop.csv'}; ids come in a file, Parquet or CSV with a header"
    )
    assert "File name too long" in refused(tmp_path / ("x" * 300 + ".csv"))
    assert "it is empty" in refused(Path("/dev/null"))
    assert "must hold at most" in refused(Path("/dev/zero"))


def damaged_text():
    """Text whose bytes are no UTF-8, as writers leave it that do not look."""
    good = pa.array(["ab", "cd"])
    return pa.Array.from_buffers(pa.string(), 2, [None, good.buffers()[1], pa.py_buffer(b"\xff\xfe\xfa\xfb")])


NO_USERS = {
    "half": pa.array(np.array([101, 102], np.float16)),
    "double": pa.array([101.0, 102.0]),
    "bool": pa.array([True]),
    "decimal128(9, 2)": pa.array([Decimal("101.50")], pa.decimal128(9, 2)),
    "decimal256": pa.array([Decimal(101)], pa.decimal256(60, 0)),
    "date32": pa.array([2**31 - 1, -(2**31)], pa.int32()).cast(pa.date32()),
    "timestamp[ns, tz=No/Where]": pa.array([101], pa.timestamp("ns", "No/Where")),
    "timestamp[us]": pa.array([2**63 - 1, -(2**63)], pa.timestamp("us")),
    "time64": pa.array([101], pa.time64("ns")),
    "duration": pa.array([101], pa.duration("s")),
    "string": pa.array(["101"]),
    "large_string": pa.array(["101"], pa.large_string()),
    "string_view": pa.array(["101"], pa.string_view()),
    "binary": pa.array([b"\xff"]),
    "fixed_size_binary[2]": pa.array([b"\xff\xfe"], pa.binary(2)),
    "list": pa.array([[101]]),
    "large_list": pa.array([[101]], pa.large_list(pa.int64())),
    "struct": pa.array([{"a": 101}]),
    "fixed_size_list": pa.array([[101]], pa.list_(pa.int64(), 1)),
    "map": pa.array([[("a", 101)]], pa.map_(pa.string(), pa.int64())),
    "list_view": pa.array([[101]], pa.list_view(pa.int64())),
    "dictionary": pa.array(["101"]).dictionary_encode(),
    "arrow.uuid": pa.array([bytes(16)], pa.uuid()),
}


@pytest.mark.parametrize("kind", NO_USERS)
def test_a_column_of_another_type_is_refused_by_its_name_and_type(parquet, kind):
    message = refused(parquet({"user": NO_USERS[kind]}))
    assert message.startswith(": column 'user' of type ") and kind.split("[")[0] in message and "must hold int64 ids" in message


def test_text_that_is_no_utf8_is_refused(parquet):
    path = parquet({"item": damaged_text()})
    assert refused(path, ITEMS).startswith(": column 'item' holds values that are no string (Invalid UTF8")


def test_nulls_and_no_rows_are_refused(parquet):
    assert "ids must not be null, 2 of column 'user' are" in refused(parquet({"user": pa.nulls(2)}))
    assert "ids must not be null, 1 of column 'user' are" in refused(parquet({"user": pa.array([101, None])}))
    assert "holds no rows" in refused(parquet({"user": pa.array([], pa.int64())}))
    assert "it is empty" in refused(parquet(pa.table({"user": [1]}).drop_columns(["user"])))


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        (pa.array([2**64 - 1, 101], pa.uint64()), [2**64 - 1, 101]),
        (pa.array([Decimal(10**37), Decimal(101)], pa.decimal128(38, 0)), [10**37, 101]),
        (pa.array([101, 102, 101]).dictionary_encode(), [101, 102, 101]),
        (pa.array([-1, 101], pa.int8()), [-1, 101]),
    ],
)
def test_a_column_of_whole_numbers_is_read_in_any_layout(parquet, ids, found):
    assert read(parquet({"user": ids}), USERS) == [found]


@pytest.mark.parametrize("name", ["user", "customer"])
def test_columns_of_any_name_lie_beside_the_ids(parquet, name):
    others = {"User": ["x", "y"], f"{name}.id": [1, 2], "": [3, 4], "a\0b": [5, 6], "gcnrec_item": [7, 8], "__filename": [9, 9]}
    path = parquet({**{other: pa.array(values) for other, values in others.items()}, name: pa.array([101, 999])})
    assert read(path, USERS) == [[101, 999]]


def test_the_same_column_twice_is_refused(parquet):
    assert "must have each column once, 'user' comes 2 times" in refused(parquet(pa.table([[1], [2]], names=["user", "user"])))


def test_one_column_is_not_users_and_items(parquet):
    users = IdColumn(("user", "id"), USERS.vocabulary, ("item", "id"))
    items = IdColumn(("item", "id"), ITEMS.vocabulary, ("user", "id"))
    path = parquet({"id": pa.array([101]), "x": pa.array(["tea"])})
    assert "must have columns of users and of items, 'id' may be either; call them 'user' and 'item'" in refused(
        path, users, items
    )


def test_parquet_that_is_damaged_is_one_sentence(parquet):
    """Every byte of the metadata, and some of the data, flipped; what can still be read, is."""
    path = parquet({"user": pa.array([101, 102] * 50), "x": pa.array(["a", "b"] * 50)})
    whole = path.read_bytes()
    for place in [*range(0, 60, 3), *range(len(whole) - 60, len(whole), 3)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        try:
            read(path, USERS)
        except DataError as problem:
            assert not isinstance(problem, Unforeseen) and str(problem).isprintable()
    for content in (b"", b"PAR1", whole[:40], whole[:-9], b"\0" * 100, b"user\n101\n"):
        path.write_bytes(content)
        assert " must be Parquet, or CSV with a header in UTF-8 ending in .csv (" in refused(path)


def test_a_folder_that_changes_while_it_is_listed_is_one_sentence(tmp_path, monkeypatch):
    def vanished(self, pattern):
        raise FileNotFoundError(2, "No such file or directory", "x.parquet")

    monkeypatch.setattr(Path, "rglob", vanished)
    with pytest.raises(DataError, match=r"cannot be read \(No such file or directory\); name a file, or a folder of Parquet"):
        memory_bounds._given_bytes(tmp_path, Allowed())
