"""Files of another shape than their readers expect: JSON, lines of JSON, TOML, .npy, Parquet, safetensors."""

from __future__ import annotations

import io
import json
import re
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DEEP = [b"[" * 100_000, b'{"a":' * 50_000, b"[" * 5_000 + b"]" * 5_000, b'{"a":' * 900 + b"1" + b"}" * 900]
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3.5, -0.0, 1e308, float("nan"), float("inf"), 2**31, 2**63, 10**30, "", "x", "test",
    "fit", "\x00", "é\u202e", "x" * 5000, [], [0], [None], [[1, 2]], {}, {"a": 1}, {"": {}}, ["a", "b"], "1", "../../etc",
    "2GB",
]  # fmt: skip
DOCUMENTS = [
    b"", b"null", b"5", b'"x"', b"[]", b"[{}]", b"{}", b"{}{}", b"\xff\xfe", b"\xef\xbb\xbf{}", b'{"a":1,"a":2}', b"NaN",
    b"1" * 20_000, b'{"format": ' + b"9" * 9_000 + b"}", b'{"\\ud800": "\\udfff"}', b"\x00" * 64, b"{'a': 1}",
    b'{"format": 1}',
]  # fmt: skip


def changed_json(content: bytes, draw: Random) -> bytes:
    """JSON with a value, a key or all of it changed."""
    if draw.random() < 0.2:
        return draw.choice(DOCUMENTS + DEEP)
    try:
        document = json.loads(content)
    except ValueError:
        return draw.choice(DOCUMENTS)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        document = _with_a_change(document, draw)
    text = json.dumps(document, indent=draw.choice([2, None]))
    if draw.random() < 0.05:
        text = re.sub(r"\d+", lambda found: found[0] * 2000 if draw.random() < 0.1 else found[0], text)
    return text.encode(draw.choice(["utf-8"] * 20 + ["utf-16", "utf-8-sig"]))


def _with_a_change(document: Any, draw: Random) -> Any:
    """The document with something in it changed, nearer the top more often."""
    if isinstance(document, (dict, list)) and document and draw.random() < 0.85:
        key = draw.choice(list(document) if isinstance(document, dict) else range(len(document)))
        match draw.choice(["inside"] * 6 + ["lose", "add", "rename"]):
            case "lose":
                del document[key]
            case "add":
                key, value = draw.choice(["", "a", "..", "é"]), draw.choice(ODD)
                document = {**document, key: value} if isinstance(document, dict) else [*document, value]
            case "rename" if isinstance(document, dict):
                document[draw.choice(["x", "", *document])] = document.pop(key)
            case _:
                document[key] = _with_a_change(document[key], draw)
        return document
    if isinstance(document, (int, float)) and not isinstance(document, bool) and draw.random() < 0.5:
        return draw.choice([document + 1, -document, document * 2, document / 2, str(document), [document], document + 1e-9])
    if isinstance(document, str) and document and draw.random() < 0.5:
        return draw.choice([document[:-1], document + "0", document.upper(), [document], document[::-1], document + "/../.."])
    return json.loads(json.dumps(draw.choice(ODD)))


def changed_lines(content: bytes, draw: Random) -> bytes:
    """Lines of JSON with one of them changed, lost, doubled or put elsewhere, or another line between them."""
    lines = content.splitlines()
    at = draw.randrange(len(lines) + 1)
    match draw.choice(["change"] * 4 + ["lose", "double", "move", "add", "add", "cut"]):
        case "change" if lines:
            lines[at % len(lines)] = changed_json(lines[at % len(lines)], draw).replace(b"\n", b"")
        case "lose" if lines:
            del lines[at % len(lines)]
        case "double" if lines:
            lines.insert(at, lines[at % len(lines)])
        case "move" if lines:
            lines.insert(at, lines.pop(at % len(lines)))
        case "cut" if lines:
            return b"\n".join(lines) + b"\n" + lines[-1][: draw.randrange(len(lines[-1]) + 1)]
        case _:
            others = [
                b'{"event":"warning"}',
                b'{"event":"epoch"}',
                b'{"event":null}',
                b'{"event":"unheard of","x":[1]}',
                b'{"a":1}',
            ]
            lines.insert(at, draw.choice([*DOCUMENTS, *others, DEEP[0]]))
    return b"\n".join(lines) + b"\n"


def changed_text(content: bytes, draw: Random) -> bytes:
    """TOML with a line, a value or a name changed."""
    lines = content.decode(errors="replace").splitlines()
    keyed = [number for number, line in enumerate(lines) if " = " in line]
    at = draw.choice(keyed) if keyed else 0
    values = [
        "1" * 6000,
        "9" * 30,
        "-1",
        "1e400",
        "nan",
        "inf",
        "true",
        '"x"',
        '""',
        "[]",
        "[" * 3000,
        "{}",
        "1979-05-27",
        "0x_",
        "'",
    ]
    match draw.choice(["value", "value", "value", "digit", "lose", "double", "section", "key", "add"]):
        case "value" if keyed:
            lines[at] = f"{lines[at].partition(' = ')[0]} = {draw.choice(values)}"
        case "digit" if keyed:
            lines[at] = re.sub(r"\d", lambda found: str((int(found[0]) + 1) % 10), lines[at], count=1)
        case "lose" if keyed:
            del lines[at]
        case "double" if keyed:
            lines.insert(at, lines[at])
        case "key" if keyed:
            lines[at] = draw.choice(["x", "", "a.b", '"é"', "\u0661"]) + " = 1"
        case _:
            lines.insert(
                draw.randrange(len(lines) + 1), draw.choice(["[", "[train]", "[x]", "x", "# é", "[[train]]", "a.b.c = 1", "\x00"])
            )
    return ("\n".join(lines) + "\n").encode(draw.choice(["utf-8"] * 12 + ["utf-16", "latin-1"]), errors="replace")


def changed_array(content: bytes, draw: Random) -> bytes:
    """A .npy file with other values, another dtype, shape or order, or with Python objects in it."""
    try:
        array = np.load(io.BytesIO(content))
    except (ValueError, OSError, EOFError):
        return content + b"\0"
    if not array.size or array.dtype.kind not in "iuf":
        return content[:-1]
    flat = array.reshape(-1).copy()
    at, most = draw.randrange(flat.size), 2**31 - 1 if flat.dtype.itemsize == 4 else 2**62
    match draw.choice(["far", "negative", "near", "swap", "repeat", "type", "shape", "order", "objects", "length", "header"]):
        case "far":
            flat[at] = most
        case "negative":
            flat[at] = -1 if flat.dtype.kind != "u" else 0
        case "near":
            flat[at] += draw.choice([1, 40, 60])
        case "swap":
            flat[[at, 0]] = flat[[0, at]]
        case "repeat":
            flat[at] = flat[at - 1]
        case "type":
            return _saved(
                array.astype(draw.choice(["float64", "int8", "int64", "int32", ">i4", "bool", "complex64", "S4", "M8[s]"]))
            )
        case "shape":
            return _saved(array.reshape(draw.choice([(1, -1), (-1, 1), (1, 1, -1)])))
        case "order":
            return _saved(np.asfortranarray(np.stack([flat, flat])))
        case "objects":
            return _saved(np.array([None, {"a": 1}], object))
        case "length":
            return _saved(draw.choice([flat[:-1], flat[:0], np.concatenate([flat, flat]), np.concatenate([flat, flat[-1:]])]))
        case "header":
            return (
                content[:8] + draw.randbytes(2) + content[10:]
                if draw.random() < 0.5
                else content.replace(b"'shape'", b"'shapf'", 1)
            )
    return _saved(flat.reshape(array.shape))


def _saved(array: Any) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


def changed_columns(content: bytes, draw: Random) -> bytes:
    """A Parquet file with other values, types, columns, rows or metadata."""
    sink = io.BytesIO()
    layout = {"compression": draw.choice(["zstd", "none", "gzip"]), "row_group_size": draw.choice([None, 1, 7])}
    try:
        pq.write_table(_changed_table(pq.read_table(io.BytesIO(content)), draw), sink, **layout)
    except (pa.ArrowException, OSError, ValueError, OverflowError):  # Python has not every value that Arrow has
        return content[:-1]
    return sink.getvalue()


def _changed_table(table: pa.Table, draw: Random) -> pa.Table:
    at = draw.randrange(table.num_columns) if table.num_columns else 0
    match draw.choice(
        ["value", "value", "null", "type", "lose", "rename", "twice", "rows", "order", "metadata", "more", "layout"]
    ):
        case "value" | "null" as what if table.num_columns and table.num_rows:
            values = table.column(at).to_pylist()
            values[draw.randrange(len(values))] = None if what == "null" else _another(draw.choice(values), draw)
            table = _with(table, at, values, table.schema.field(at).type)
        case "type" if table.num_columns:
            table = _with(
                table,
                at,
                [draw.choice([None, 1, 7]) for _ in range(len(table))],
                draw.choice([pa.int8(), pa.float64(), pa.null()]),
            )
        case "lose" if table.num_columns:
            table = table.remove_column(at)
        case "rename" if table.num_columns:
            table = table.rename_columns(
                [draw.choice(["x", "", "user", "id"]) if n == at else name for n, name in enumerate(table.column_names)]
            )
        case "twice" if table.num_columns:
            table = table.append_column(table.schema.field(at), table.column(at))
        case "rows":
            table = draw.choice(
                [table.slice(1), table.slice(0, 0), pa.concat_tables([table, table]), table.slice(0, len(table) - 1)]
            )
        case "order" if table.num_rows:
            table = table.take(pa.array(range(len(table) - 1, -1, -1)))
        case "metadata":
            table = table.replace_schema_metadata(
                draw.choice([None, {"gcnrec": "{"}, {"gcnrec": '{"kind": 5}'}, {"gcnrec": "[]"}])
            )
        case "more":
            table = table.append_column("more", pa.nulls(len(table)))
    return table


def _another(value: Any, draw: Random) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (
            draw.choice([0, -1, value + 1, 2**31 - 1]) if isinstance(value, int) else draw.choice([value + 1, float("nan"), 1e38])
        )
    return value[::-1] if isinstance(value, (str, list)) else value


def _with(table: pa.Table, at: int, values: list[Any], kind: pa.DataType) -> pa.Table:
    """The table with a column replaced, as far as its type takes the values."""
    try:
        return table.set_column(at, pa.field(table.column_names[at], kind), pa.array(values, kind))
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return table.remove_column(at)


def changed_header(content: bytes, draw: Random) -> bytes:
    """A safetensors file with another header, or another length of it, in front of the same tensors."""
    length = int.from_bytes(content[:8], "little")
    header, rest = content[8 : 8 + length], content[8 + length :]
    match draw.choice(["json", "json", "json", "length", "odd", "pad", "progress"]):
        case "json":
            header = changed_json(header, draw)
        case "length":
            return draw.choice([0, 1, length + 1, len(content), 2**40, 2**63]).to_bytes(8, "little") + content[8:]
        case "odd":
            header = draw.choice([*DOCUMENTS, *DEEP])
        case "pad":
            header += b" " * draw.choice([1, 8, 64])
        case "progress":
            header = header.replace(b'\\"epoch\\": ', draw.choice([b'\\"epoch\\": 9', b'\\"epoch\\": -', b'\\"epohc\\": ']), 1)
    return len(header).to_bytes(8, "little") + header + rest
