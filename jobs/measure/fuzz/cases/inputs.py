"""Files that come with a command: ids, pairs and segments as text and Parquet; and cards whose sources are really reached."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.measure.fuzz.cases.case import Case, changed_bytes
from jobs.measure.fuzz.cases.malformed import changed_columns
from jobs.measure.fuzz.cases.parquet import IDS, OTHERS, array_of
from jobs.measure.fuzz.world import ITEMS, LOOSE_FILES, USERS

REWRITTEN = ["--users", "--items", "--candidates", "--exclude", "--new-users", "--segments"]
OPTIONS = [*REWRITTEN, "--new-items", "--among", "--pairs"]
COLUMNS = {
    "--users": ["user"],
    "--items": ["item"],
    "--new-items": ["item", "price"],
    "--among": ["item"],
    "--segments": ["user", "segment"],
}
FIELDS = [
    "", " 1", "1 ", "+1", "-1", "1.0", "1e3", "007", "1_0", "0x10", "\u0661\u0662", "\uff11", "9" * 30, "9" * 6000, "nan",
    "null", "NULL", "true", "é", "\x00", '"', '"1', "1\r", "x" * 100_000, "\u202e", "\ufeff", "1;2", "'1'", "1\t",
    "2024-01-01", "\U0001f600",
]  # fmt: skip
TEXTS = [
    b"", b"\n", b"\n\n\n", b"user\n", b"user,item\n", b"user,item", b"user,user\n1,2\n", b",\n1,2\n", b"user,item\n1\n",
    b"user,item\n1,2,3\n", b'"user\n1\n', b"\xff\xfeu\x00s\x00e\x00r\x00\n\x001\x00\n\x00",
    b"\xef\xbb\xbfuser,item\r\n1,2\r\n", b"user\r1\r2\r", b"user\x00item\n1\x002\n", b"us\xe9r\n1\n", b"PAR1", b"PAR1PAR1",
    b"\x1f\x8b\x08", b"PK\x03\x04", b"{}", b"user,item\n" + b"1,2\n" * 3 + b"\x00" * 100,
    b",".join(b"c%d" % n for n in range(3000)) + b"\n", b"user,item\n" + b'"' * 9_999, b"1\n2\n3\n", b"item,user\n1,1\n",
    b"USER,ITEM\n1,1\n", b"user item\n1 1\n", b"user\titem\n1\t1\n", b"user,item\n1,1\n,\n",
]  # fmt: skip
TSV = "user\titem\tweight\n" + "".join(f"{n % 9}\t{n * 5 % 7}\t{n / 4}\n" for n in range(120))
KINDS = {"user": "int64", "item": "int64", "weight": "float64"}


def request_case(draw: Random, kept: Path) -> Case:
    """`recommend` or `evaluate` with an odd file of ids, or a sound one in another form, which must give the same."""
    option = draw.choice(OPTIONS)
    columns = COLUMNS.get(option, ["user", "item"])
    if draw.random() < 0.15 and option in REWRITTEN:
        return _rewritten(draw, option, columns)
    name = f"given.{draw.choice(['csv', 'parquet', 'csv', 'parquet', 'txt', 'CSV', 'parquet.csv'])}"
    content = _text(draw, columns) if "csv" in name.lower() else _table(draw, columns)
    if draw.random() < 0.2:
        content = changed_bytes(content, draw.choice(["flip", "set", "cut", "append", "zero", "drop", "insert"]), draw)
    run = "dense" if draw.random() < 0.8 else "closed"
    return _request(option, {name: content}, run, name)


def _request(option: str, files: dict[str, bytes], run: str, name: str, twin: Case | None = None) -> Case:
    base = {
        "--segments": ["evaluate", run, "--json"], "--pairs": ["score", run, "--out", "out.parquet"],
        "--among": ["similar", run, "--k", "5", "--out", "out.parquet"],
    }.get(option, ["recommend", run, "--k", "5", "--out", "out.parquet"])  # fmt: skip
    world = ("data" if run == "dense" else "plain", run, *LOOSE_FILES)
    kind = "ids in a file" if twin is None else "ids in another form"
    writes = (f"{run}/",) if option == "--segments" else ()
    return Case(kind, files, [*base, option, name], world=world, writes=writes, twin=twin)


def _rewritten(draw: Random, option: str, columns: list[str]) -> Case:
    """The same ids as CSV, plain and in another form."""
    rows = [_sound_row(draw, columns) for _ in range(30)]
    rows = list({row[0]: row for row in rows}.values()) if option in ("--segments", "--users") else rows
    plain = _csv(columns, rows).encode()
    twin = _request(option, {"sound.csv": plain}, "dense", "sound.csv")
    form = draw.choice(
        ["crlf", "mark", "quoted", "no end", "parquet", "text ids", "large", "dictionary", "small", "order", "more"]
    )
    name, content = "given.csv", plain
    match form:
        case "crlf":
            content = plain.replace(b"\n", b"\r\n")
        case "mark":
            content = b"\xef\xbb\xbf" + plain
        case "quoted":
            content = (
                "\n".join(",".join(f'"{field}"' for field in line.split(",")) for line in plain.decode().splitlines()).encode()
                + b"\n"
            )
        case "no end":
            content = plain[:-1]
        case "order" if len(columns) == 2:
            content = _csv(columns[::-1], [row[::-1] for row in rows]).encode()
        case "parquet" | "large" | "dictionary" | "small":
            kind = {"large": pa.int64(), "dictionary": pa.dictionary(pa.int16(), pa.int64()), "small": pa.uint8()}.get(
                form, pa.int32()
            )
            arrays = {
                column: _ids_as(kind, [row[at] for row in rows]) for at, column in enumerate(columns) if column != "segment"
            }
            arrays |= {column: pa.array([row[at] for row in rows]) for at, column in enumerate(columns) if column == "segment"}
            name, content = "given.parquet", _written(pa.table(arrays), draw)
    return _request(option, {name: content}, "dense", name, twin)


def _ids_as(kind: pa.DataType, values: list[int]) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array(values, pa.int64()).dictionary_encode().cast(kind)
    return pa.array(values, kind)


def _sound_row(draw: Random, columns: list[str]) -> list[Any]:
    return [{"user": draw.randrange(USERS), "item": draw.randrange(ITEMS)}.get(column, draw.choice("ab")) for column in columns]


def _csv(columns: list[str], rows: list[list[Any]]) -> str:
    return "\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n"


def _text(draw: Random, columns: list[str]) -> bytes:
    if draw.random() < 0.3:
        return draw.choice(TEXTS)
    rows = [_sound_row(draw, columns) for _ in range(draw.choice([1, 5, 20]))]
    for _ in range(draw.choice([0, 1, 1, 3])):
        row = draw.choice(rows)
        row[draw.randrange(len(row))] = draw.choice(FIELDS)
    names = [draw.choice([name, name, name, name.upper(), "x", ""]) for name in columns]
    text = _csv(names, rows).replace("\n", draw.choice(["\n", "\n", "\r\n", "\r"]))
    return text.encode(draw.choice(["utf-8"] * 8 + ["utf-16", "utf-16-be", "utf-8-sig", "utf-32", "cp1252"]), errors="replace")


def _table(draw: Random, columns: list[str]) -> bytes:
    rows = draw.choice([0, 1, 3, 12])
    arrays, names = [], []
    for column in columns:
        if draw.random() < 0.6:
            arrays.append(pa.array([_sound_row(draw, [column])[0] for _ in range(rows)]))
        else:
            kinds = IDS if draw.random() < 0.6 else {**OTHERS, pa.timestamp("us"): [0, 2**62], pa.date32(): [None]}
            kind = draw.choice(list(kinds))
            arrays.append(array_of([draw.choice([*kinds[kind], kinds[kind][0]]) for _ in range(rows)], kind))
        names.append(draw.choice([column] * 8 + ["x", "", column.upper()]))
    try:
        content = _written(pa.Table.from_arrays(arrays, names), draw)
    except (pa.ArrowException, OSError):
        return b"PAR1"
    return changed_columns(content, draw) if draw.random() < 0.3 else content


def _written(table: pa.Table, draw: Random) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression=draw.choice(["zstd", "none", "snappy", "gzip"]), use_dictionary=draw.random() < 0.5)
    return sink.getvalue()


def source_case(draw: Random, kept: Path) -> Case:
    """`ingest` of a card whose file comes from a file:// or http:// address: a table, Parquet or a zip, mostly damaged."""
    text = draw.random() < 0.6
    sound = TSV.encode() if text else (kept / "tiny.parquet").read_bytes()
    content = _damaged_table(sound, draw) if text and draw.random() < 0.4 else sound
    named = hashlib.sha256(content if draw.random() < 0.9 else b"").hexdigest()
    served, member = content, None
    if draw.random() < 0.5:
        member = draw.choice(["a.tsv", "folder/a.tsv", "a b.tsv", "é.tsv"])
        served = _archive(draw, member, content)
    if draw.random() < 0.4:
        served = changed_bytes(
            served, draw.choice(["flip", "set", "cut", "append", "zero", "drop", "insert", "swap", "empty"]), draw
        )
    web = draw.random() < 0.35
    url = (
        "http://127.0.0.1:@PORT@/a"
        if web
        else draw.choice(["file://@HERE@/source.bin"] * 9 + ["file://localhost@HERE@/source.bin"])
    )
    kinds = (
        dict(KINDS)
        if draw.random() < 0.9
        else {"user": draw.choice(["string", "float32"]), draw.choice(["item", "x", "weight"]): "int64"}
    )
    files = {"card.toml": _card(url, named, member, kinds if text else None).encode(), "source.bin": served}
    answer = _answer(draw, served) if web else b""
    twin = None
    if named == hashlib.sha256(sound).hexdigest() and kinds == KINDS:
        sound_card = _card("file://@HERE@/source.bin", named, None, kinds if text else None).encode()
        twin = Case("source", {"card.toml": sound_card, "source.bin": sound}, _INGEST, writes=("data",))
    return Case("source", files, _INGEST, writes=("data",), served=answer, twin=twin)


_INGEST = ["ingest", "card.toml", "--out", "out", "--json"]


def _card(url: str, sha256: str, member: str | None, columns: dict[str, str] | None) -> str:
    source = f'{{ url = "{url}", sha256 = "{sha256}"' + (
        f", member = {json.dumps(member, ensure_ascii=False)} }}" if member else " }"
    )
    listed = ", ".join(f"{name} = {json.dumps(kind)}" for name, kind in (columns or {}).items())
    return "\n".join([
        '[card]\nname = "c"\ntitle = "t"\nlicence = "l"\norigin = "o"',
        '[data]\ntrain = "c/a.parquet"\nuser = "user"\nitem = "item"\nsplit = "random"',
        f'[[file]]\npath = "c/a.parquet"\nsource = [{source}]', f"columns = {{ {listed} }}\n" if columns else "",
    ])  # fmt: skip


def _damaged_table(sound: bytes, draw: Random) -> bytes:
    lines = sound.decode().split("\n")
    at = draw.randrange(len(lines))
    match draw.choice(["field", "line", "header", "encoding", "bytes", "long", "quote", "empty"]):
        case "field":
            lines[at] = "\t".join([draw.choice(FIELDS), *lines[at].split("\t")[1:]])
        case "line":
            lines.insert(at, draw.choice(["", "\t\t\t\t", "1", "1\t2\t3\t4\t5", "\x00", "\r", "#", "é"]))
        case "header":
            lines[0] = draw.choice(
                [
                    "",
                    "user",
                    "user\tuser\titem",
                    "user:token\titem:token\tweight:float",
                    "x" * 10**6,
                    "\ufeffuser\titem\tweight",
                    "\x00",
                ]
            )
        case "encoding":
            return sound.decode().encode(draw.choice(["utf-16", "utf-8-sig", "utf-32"]))
        case "bytes":
            return changed_bytes(sound, draw.choice(["flip", "set", "cut", "zero", "insert"]), draw)
        case "long":
            lines[at] = "\t" * 100_000
        case "quote":
            lines[at] = '"' + lines[at]
        case "empty":
            return b""
    return "\n".join(lines).encode(errors="surrogatepass")


def _archive(draw: Random, member: str, content: bytes) -> bytes:
    """A zip with the member, and maybe with more than that, its bytes changed where zipfile writes no such thing."""
    sink, kind = (
        io.BytesIO(),
        draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]),
    )
    with zipfile.ZipFile(sink, "w", kind) as zipped:
        if draw.random() < 0.2:
            zipped.writestr(draw.choice(["../outside/x", "/etc/x", "other", "a/../../x", "x" * 300, "\U0001f600"]), b"x")
        name = member if draw.random() < 0.9 else draw.choice(["other.tsv", member.upper(), f"./{member}", f"../{member}"])
        zipped.writestr(name, content)
        if draw.random() < 0.1:
            zipped.writestr("bomb", bytes(2**22))
        zipped.comment = draw.choice([b"", b"", b"PK\x05\x06", b"x" * 100])
    data = bytearray(sink.getvalue())
    match draw.choice(["none"] * 5 + ["encrypted", "method", "size", "front", "twice", "version"]):
        case "encrypted":
            _patch(data, 8, 6, (1).to_bytes(2, "little"))
        case "method":
            _patch(data, 10, 8, draw.choice([1, 12, 14, 93, 97, 99]).to_bytes(2, "little"))
        case "size":
            _patch(data, 24, 22, draw.choice([0, 1, 2**31, 2**32 - 1]).to_bytes(4, "little"))
        case "front":
            data[:0] = draw.randbytes(33)
        case "twice":
            data += bytes(data)
        case "version":
            _patch(data, 6, 4, (99).to_bytes(2, "little"))
    return bytes(data)


def _patch(data: bytearray, central: int, local: int, value: bytes) -> None:
    """Put a value into the last entry of a zip, in its central directory and in front of its bytes."""
    for mark, at in ((b"PK\x01\x02", central), (b"PK\x03\x04", local)):
        start = data.rfind(mark)
        if start >= 0:
            data[start + at : start + at + len(value)] = value


def _answer(draw: Random, body: bytes) -> bytes:
    """An HTTP answer with this body, sound or odd."""
    length = b"Content-Length: %d\r\n" % len(body)
    sound = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
    places = [
        b"file:///etc/passwd",
        b"ftp://127.0.0.1/x",
        b"/a",
        b"http://127.0.0.1:@/x",
        b"http://[::1",
        b"\xff\xfe",
        b"data:,x",
        b"",
        b"http://127.0.0.1:99999/",
    ]
    moved = b"HTTP/1.1 302 Found\r\nLocation: " + draw.choice(places) + b"\r\nContent-Length: 0\r\n\r\n"
    chunked = sound + b"Transfer-Encoding: chunked\r\n\r\n"
    return draw.choice([
        *[sound + length + b"\r\n" + body] * 6, sound + b"\r\n" + body, sound + b"Content-Length: 9999999\r\n\r\n" + body,
        sound + b"Content-Length: 5\r\n\r\n" + body, sound + b"Content-Length: -1\r\n\r\n" + body,
        sound + b"Content-Length: x\r\n\r\n" + body, chunked + b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n",
        chunked + b"zz\r\n" + body, chunked + b"ffffffffffffffff\r\n" + body, chunked, moved, moved, moved, b"", b"\x00" * 50,
        b"HTTP/1.1\r\n\r\n", b"HTTP/9.9 200 OK\r\n\r\n" + body, b"HTTP/1.1 999 \xff\r\n\r\n",
        b"HTTP/1.1 404 N\xc3\xb6\r\n\r\n", b"HTTP/1.1 204 No\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n" + body, sound + b"X: " + b"y" * 70_000 + b"\r\n\r\n" + body,
        sound + b"\xff\xfe: \xff\r\n" + length + b"\r\n" + body, body, b"HTTP/1.1 200 OK\n" + length + b"\n" + body,
        sound + b"Content-Encoding: gzip\r\n" + length + b"\r\n" + body, b"HTTP/1.1 301 M\r\n\r\n",
        b"HTTP/1.1 100 C\r\n\r\n" * 3 + sound + length + b"\r\n" + body,
    ])  # fmt: skip
