"""What comparisons of a condition mean, by the types of their operands: IEEE numbers, exact literals, times of UTC.

DuckDB orders NaN above all numbers, compares large integers as float64 in places, and drops the offset of a time that it
reads as one without a zone. Its trees are rebuilt here, so that none of these decides about a row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, ROUND_FLOOR, Context, Decimal, InvalidOperation
from typing import Any

import numpy as np

from gcnrec.errors import nearest

Node = dict[str, Any]
"""An expression as DuckDB's json_serialize_sql writes it."""

FLOATS = {"half": np.float16, "float": np.float32, "double": np.float64}
_INTEGERS = {"tinyint", "smallint", "integer", "bigint", "hugeint", "utinyint", "usmallint", "uinteger", "ubigint", "uhugeint"}
_EXACT = _INTEGERS | {"decimal"}
NUMBERS = _EXACT | FLOATS.keys()
"""Kinds that are numbers."""
_NAIVE = {"date", "timestamp_s", "timestamp_ms", "timestamp", "timestamp_ns"}
"""Times without a zone: they are of UTC."""
_ZONED = {"timestamp with time zone", "timestamptz_ns"}
"""Times of one zone or another, which are moments."""
_MOST_DIGITS = 38
"""Of DuckDB's decimals."""
_NESTED = {"list", "array", "struct", "tuple", "map", "union"}
_TIME_TYPES = {"date", "timestamp", "datetime", "timestamp_s", "timestamp_ms", "timestamp_us", "timestamp_ns"}
"""Names of such types in SQL, where a cast to one reads an offset."""
_OFFSET = re.compile(r"\s*\d+-\d+-\d+[T ]\s*\d.*?(Z|[+-]\d+(:?\d+)*)\s*", re.IGNORECASE | re.DOTALL)
"""A time in text that says how far it is from UTC."""
_SIGNS = {
    "COMPARE_EQUAL": "=", "COMPARE_NOTEQUAL": "<>", "COMPARE_LESSTHAN": "<", "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHAN": ">", "COMPARE_GREATERTHANOREQUALTO": ">=",
    "COMPARE_DISTINCT_FROM": "IS DISTINCT FROM", "COMPARE_NOT_DISTINCT_FROM": "IS NOT DISTINCT FROM",
}  # fmt: skip
_UNEQUAL = {"<>", "IS DISTINCT FROM"}
"""True where an operand is NaN; every other comparison is false there."""
_EXTREMES = {"greatest", "least"}
_LISTS_NAMES = """
    contains list_contains array_contains list_has array_has list_has_any array_has_any list_has_all array_has_all && @> <@
    list_position list_indexof array_position array_indexof list_distinct array_distinct list_unique array_unique
    list_intersect list_sort array_sort list_reverse_sort list_max list_min list_median
"""
_LISTS = set(_LISTS_NAMES.split())
"""Functions that compare the elements of lists."""
_FIELDS = {"struct_extract", "array_extract", "STRUCT_EXTRACT", "ARRAY_EXTRACT"}
_MOST_NESTED = 8
"""Comparisons of floats inside operands of others: each repeats its operands."""


class Unfit(Exception):
    """Why a condition does not fit the types of the columns."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The type of an operand: DuckDB's name for it, or `half`; digits of a decimal, names of a struct's fields."""

    name: str
    digits: int = 0
    scale: int = 0
    fields: tuple[str, ...] = ()
    nests_floats: bool = False


def kind_of(declared: Any) -> Kind:
    """The Kind of one of DuckDB's type objects."""
    name = str(declared.id)
    if name == "decimal":
        parts = dict(declared.children)
        return Kind(name, int(parts["precision"]), int(parts["scale"]))
    if name in _NESTED:
        fields = tuple(field for field, _ in declared.children) if name == "struct" else ()
        return Kind(name, fields=fields, nests_floats=_nests_floats(declared))
    return Kind(name)


def _nests_floats(declared: Any) -> bool:
    if str(declared.id) in _NESTED:
        return any(_nests_floats(inner) for _, inner in declared.children if not isinstance(inner, int))
    return str(declared.id) in FLOATS


def text_of(node: Node) -> str:
    """What the kinds of expressions are found by."""
    return json.dumps(node, sort_keys=True)


def operands(node: Any) -> Iterator[Node]:
    """The expressions in a clause whose types decide how it is rebuilt; constants are not among them."""
    pending = [node]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending += node
        elif isinstance(node, dict):
            pending += node.values()
            yield from (part for part in _compared_in(node) if part["class"] != "CONSTANT")


def _compared_in(node: Node) -> list[Node]:
    name = node.get("function_name", "").lower()
    match node.get("class"):
        case "COMPARISON":
            return [node["left"], node["right"]]
        case "BETWEEN":
            return [node["input"], node["lower"], node["upper"]]
        case "OPERATOR" if node["type"] in ("COMPARE_IN", "COMPARE_NOT_IN", *_FIELDS):
            return list(node["children"])
        case "FUNCTION" if name in _EXTREMES | _LISTS | _FIELDS | {"nullif"}:
            return [node, *(argument["expression"] for argument in node["arguments"])]
        case "CAST" if node["type_expr"]["type_name"].lower() in _TIME_TYPES:
            return [node["child"]]
    given = _given(node)
    return given if any(map(_has_offset, given)) else []


def _given(node: Node) -> list[Node]:
    """What a function, COALESCE or CASE brings to one type; empty for other expressions."""
    if node.get("class") not in ("FUNCTION", "CASE") and node.get("type") != "OPERATOR_COALESCE":
        return []
    given: list[Node] = []
    pending: list[Any] = list(node.values())
    while pending:
        part = pending.pop()
        if isinstance(part, dict) and "class" in part:
            given.append(part)
        elif isinstance(part, (dict, list)):
            pending += part.values() if isinstance(part, dict) else part
    return given


def _has_offset(node: Node) -> bool:
    return _literal_kind(node) == "STRING" and _OFFSET.fullmatch(node["literal"]["text"]) is not None


@dataclass(slots=True)
class Comparisons:
    """Rebuilds the comparisons of a clause.

    `kinds`: of every expression of `operands`, by `text_of`. `parsed`: the tree of an SQL expression. `evaluated`: the
    float64 of an expression without columns, None where it is null or fails.
    """

    kinds: Mapping[str, Kind]
    parsed: Callable[[str], Node]
    evaluated: Callable[[Node], float | None]
    nested: int = 0

    def rebuilt(self, node: Any) -> Any:
        """The tree `node` with its comparisons rebuilt, in new containers. Raises Unfit."""
        if isinstance(node, list):
            return [self.rebuilt(part) for part in node]
        if not isinstance(node, dict):
            return node
        name = node.get("function_name", "").lower()
        match node.get("class"):
            case "COMPARISON":
                return self._comparison(_SIGNS[node["type"]], node["left"], node["right"])
            case "BETWEEN":
                return self._between(node)
            case "OPERATOR" if node["type"] in ("COMPARE_IN", "COMPARE_NOT_IN"):
                return self._in(node)
            case "CAST":
                return self._cast(node)
            case "CONJUNCTION":
                return {**node, "children": _flat(node["type"], self.rebuilt(node["children"]))}
            case "FUNCTION" if name in _EXTREMES | {"nullif"}:
                return self._choice(name, node)
            case "FUNCTION" if name in _LISTS:
                self._check_lists(name, [argument["expression"] for argument in node["arguments"]])
        if (name or node.get("type")) in _FIELDS:
            self._check_field(node["children"] if not name else [argument["expression"] for argument in node["arguments"]])
        return self._inside(node)

    def _inside(self, node: Node) -> Node:
        inside = {key: self.rebuilt(value) for key, value in node.items()}
        given = _given(node)
        naive = {self._kind(part).name for part in given} & _NAIVE if any(map(_has_offset, given)) else set()
        return {key: self._with_moments(value, max(naive)) for key, value in inside.items()} if naive else inside

    def _with_moments(self, part: Any, name: str) -> Any:
        """What a function, COALESCE or CASE has, where texts with an offset are times as those of the type `name`."""
        if isinstance(part, list):
            return [self._with_moments(inner, name) for inner in part]
        if not isinstance(part, dict):
            return part
        if "class" in part:
            return self._moment(part, name) if _has_offset(part) else part
        return {key: self._with_moments(inner, name) for key, inner in part.items()}

    def _kind(self, node: Node) -> Kind:
        if node["class"] == "CONSTANT":
            return Kind("varchar" if _literal_kind(node) == "STRING" else "")
        return self.kinds[text_of(node)]

    def _made(self, template: str, **parts: Node) -> Node:
        """The tree of an SQL expression with trees in place of the columns that `parts` names."""
        return _filled(self.parsed(template), parts)

    def _comparison(self, sign: str, left: Node, right: Node) -> Node:
        """`left sign right`. A float operand that is NaN makes it false, or true where `sign` is unequal; null stays null."""
        kinds = self._kind(left), self._kind(right)
        if any(kind.nests_floats for kind in kinds):
            raise Unfit(
                f"{sign} would compare floats inside {' and '.join(kind.name for kind in kinds)}; compare them one by one"
            )
        self._check_texts(left, right)
        if not any(kind.name in FLOATS for kind in kinds) or (_is_constant(left) and _is_constant(right)):
            first, second = self._aligned(left, right)
            return self._made(f"p {sign} q", p=first, q=second)
        self.nested += 1
        if self.nested > _MOST_NESTED:
            raise Unfit(f"comparisons of floats may lie in each other {_MOST_NESTED} deep; make it simpler")
        first, second = self._aligned(left, right)
        self.nested -= 1
        of_nan = "true" if sign in _UNEQUAL else "false"
        numbers = [self._number(side) if _is_constant(side) else None for side in (left, right)]
        known = [_is_number(number) for number in numbers]
        if any(_is_constant(side) and number is None for side, number in zip((left, right), numbers, strict=True)):
            return self._made(f"p {sign} q", p=first, q=second)  # null, or what DuckDB refuses
        if any(known):
            varying = "q" if known[0] else "p"
            return self._made(f"CASE WHEN isnan({varying}) THEN {of_nan} ELSE p {sign} q END", p=first, q=second)
        nulls = "" if "DISTINCT" in sign else "WHEN p IS NULL OR q IS NULL THEN NULL"
        return self._made(f"CASE {nulls} WHEN isnan(p) OR isnan(q) THEN {of_nan} ELSE p {sign} q END", p=first, q=second)

    def _aligned(self, left: Node, right: Node) -> tuple[Node, Node]:
        """Both operands rebuilt, in types that compare exactly: a constant takes the type of the other one."""
        kinds = self._kind(left), self._kind(right)
        if _are_uneven_times({kind.name for kind in kinds}):
            first, second = (self._made("CAST(p AS TIMESTAMP_NS)", p=self.rebuilt(side)) for side in (left, right))
            return first, second
        if _is_constant(right):
            return self.rebuilt(left), self._constant(right, kinds[0])
        if _is_constant(left):
            return self._constant(left, kinds[1]), self.rebuilt(right)
        sides = [self.rebuilt(left), self.rebuilt(right)]
        names = [kind.name for kind in kinds]
        if any(name in FLOATS for name in names) and len({"float" if name == "half" else name for name in names}) > 1:
            sides = [self._made("CAST(p AS DOUBLE)", p=side) for side in sides]
        for here, there in ((0, 1), (1, 0)):
            if names[here] == "varchar" and names[there] in _NAIVE:
                sides[here] = self._moment(sides[here], names[there])
        return sides[0], sides[1]

    def _constant(self, node: Node, kind: Kind) -> Node:
        """A constant as it is compared with an operand of `kind`; unchanged where DuckDB compares exactly."""
        if kind.name in FLOATS:
            number = self._number(node)
            return self.rebuilt(node) if number is None else self._float(number, kind.name)
        if kind.name in _EXACT and node["class"] == "CONSTANT":
            text = _at_scale(node["literal"]["text"], kind)
            return {**node, "literal": {"kind": "NUMERIC" if "." in text else "INTEGER", "text": text}} if text else node
        rebuilt: Node = self.rebuilt(node)
        return self._moment(rebuilt, kind.name) if kind.name in _NAIVE and self._kind(node).name == "varchar" else rebuilt

    def _number(self, node: Node) -> float | None:
        if node["class"] != "CONSTANT":
            return self.evaluated(node)
        if _literal_kind(node) not in ("INTEGER", "NUMERIC", "STRING"):
            return None
        try:
            return float(node["literal"]["text"])
        except ValueError:
            return None

    def _float(self, number: float, name: str) -> Node:
        """A number rounded to a type of `FLOATS`; a half lies in a float, as DuckDB has no halves."""
        with np.errstate(over="ignore"):
            rounded = FLOATS[name](number)
        declared = "DOUBLE" if name == "double" else "FLOAT"
        return self.parsed(f"CAST('{rounded if name == 'half' else str(rounded)}' AS {declared})")

    def _moment(self, node: Node, name: str) -> Node:
        """A text as a time without a zone, of UTC: an offset in the text counts."""
        zoned, naive = ("TIMESTAMPTZ_NS", "TIMESTAMP_NS") if name == "timestamp_ns" else ("TIMESTAMPTZ", "TIMESTAMP")
        return self._made(f"CAST(CAST(p AS {zoned}) AS {naive})", p=node)

    def _cast(self, node: Node) -> Node:
        name = node["type_expr"]["type_name"].lower()
        if name not in _TIME_TYPES or self._kind(node["child"]).name != "varchar":
            return self._inside(node)
        cast, zoned = "TRY_CAST" if node["try_cast"] else "CAST", "TIMESTAMPTZ_NS" if name == "timestamp_ns" else "TIMESTAMPTZ"
        return self._made(f"{cast}({cast}(p AS {zoned}) AS {name})", p=self.rebuilt(node["child"]))

    def _between(self, node: Node) -> Node:
        """Two comparisons, where that makes a difference; the input is then computed twice, which random() must not be."""
        kinds = {self._kind(node[part]).name for part in ("input", "lower", "upper")}
        if not kinds & (_EXACT | _NAIVE | _ZONED | FLOATS.keys()) or '"random"' in text_of(node["input"]):
            return self._inside(node)
        lower = self._comparison(">=", node["input"], node["lower"])
        return self._made("p AND q", p=lower, q=self._comparison("<=", node["input"], node["upper"]))

    def _in(self, node: Node) -> Node:
        """One IN where the values are constants of the input's type, else one equation for each value."""
        first, *values = node["children"]
        kinds = [self._kind(part) for part in node["children"]]
        if any(kind.nests_floats for kind in kinds):
            raise Unfit("IN would compare floats inside other values; compare them one by one")
        for value in values:
            self._check_texts(first, value)
        is_float = kinds[0].name in FLOATS
        if all(map(_is_constant, values)) and (not is_float or all(_is_number(self._number(value)) for value in values)):
            made = [self._constant(value, kinds[0]) for value in values]
            return {**node, "children": [self.rebuilt(first), *made]}
        if not {kind.name for kind in kinds} & (_EXACT | _NAIVE | _ZONED | FLOATS.keys()):
            return self._inside(node)
        names = [f"p{number}" for number in range(len(values))]
        equations = [self._comparison("=", first, value) for value in values]
        is_in = self._made(" OR ".join(names), **dict(zip(names, equations, strict=True)))
        return is_in if node["type"] == "COMPARE_IN" else self._made("NOT p", p=is_in)

    def _choice(self, name: str, node: Node) -> Node:
        """NaN from greatest and least where an argument is NaN; nullif by the rules of `=`."""
        given = [argument["expression"] for argument in node["arguments"]]
        kinds = [self._kind(part) for part in given]
        if any(kind.nests_floats for kind in kinds):
            raise Unfit(f"{name}() would compare floats inside other values; compare them one by one")
        if not any(kind.name in FLOATS for kind in kinds):
            return self._inside(node)
        if name == "nullif":
            equal = self._comparison("=", *given)
            return self._made("CASE WHEN p THEN NULL ELSE q END", p=equal, q=self.rebuilt(given[0]))
        floats = [self.rebuilt(part) for part, kind in zip(given, kinds, strict=True) if kind.name in FLOATS]
        names = [f"p{number}" for number in range(len(floats))]
        template = (
            f"CASE WHEN {' OR '.join(f'isnan({name})' for name in names)} THEN CAST('nan' AS {self._kind(node).name}) ELSE q END"
        )
        return self._made(template, q=self._inside(node), **dict(zip(names, floats, strict=True)))

    def _check_texts(self, left: Node, right: Node) -> None:
        """A text of a row is no number: DuckDB would round '3.9' to compare it with 4."""
        for text, other in ((left, right), (right, left)):
            is_number = self._kind(other).name in _EXACT | FLOATS.keys() or _literal_kind(other) in ("INTEGER", "NUMERIC")
            if is_number and self._kind(text).name == "varchar" and not _is_constant(text):
                raise Unfit("a text would be compared with a number; cast the text, as in CAST(x AS DOUBLE), or quote the number")

    def _check_lists(self, name: str, given: list[Node]) -> None:
        kinds = [self._kind(part) for part in given]
        if any(kind.nests_floats or kind.name in FLOATS for kind in kinds):
            raise Unfit(f"{name}() would compare floats inside a list; write x IN (1.5, 2.5), or compare the elements one by one")

    def _check_field(self, given: list[Node]) -> None:
        """Names of fields are exact, as those of columns are."""
        fields, key = self._kind(given[0]).fields, given[-1]
        if fields and _literal_kind(key) == "STRING" and key["literal"]["text"] not in fields:
            wanted = key["literal"]["text"]
            raise Unfit(f"there is no field {wanted!r}{nearest(wanted, fields)}")


def _are_uneven_times(names: set[str]) -> bool:
    """Whether one of two types of times has nanoseconds, and the other has none or differs in its zone: DuckDB refuses some."""
    return len(names) == 2 and names <= _NAIVE | _ZONED and bool(names & {"timestamp_ns", "timestamptz_ns"})


def _filled(node: Any, parts: Mapping[str, Node]) -> Any:
    if isinstance(node, list):
        return [_filled(part, parts) for part in node]
    if not isinstance(node, dict):
        return node
    if node.get("class") == "COLUMN_REF":
        return parts[node["column_names"][0]]
    return {key: _filled(value, parts) for key, value in node.items()}


def _flat(kind: str, parts: list[Node]) -> list[Node]:
    """The parts of AND or OR, and not an AND in an AND: DuckDB reads none."""
    flat: list[Node] = []
    for part in parts:
        flat += part["children"] if part["class"] == "CONJUNCTION" and part["type"] == kind else [part]
    return flat


def _literal_kind(node: Node) -> str:
    """Of a constant as it is written; empty for other expressions."""
    return str(node["literal"]["kind"]) if node["class"] == "CONSTANT" else ""


def _is_constant(node: Node) -> bool:
    """Whether an expression is one value for all rows: without columns, the clock and chance."""
    pending: list[Any] = [node]
    while pending:
        part = pending.pop()
        if isinstance(part, list):
            pending += part
        elif isinstance(part, dict):
            if part.get("class") == "COLUMN_REF" or (part.get("class") == "FUNCTION" and not part["arguments"]):
                return False
            pending += part.values()
    return True


def _is_number(number: float | None) -> bool:
    return number is not None and number == number


def _at_scale(text: str, kind: Kind) -> str | None:
    """A number that compares with every value of an exact type as `text` does: with as many decimals, or half a unit more.

    What is larger than every such value becomes a number that is, too. None where `text` is no number, or more digits would
    not fit a decimal.
    """
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        return None
    scale = kind.scale if kind.name == "decimal" else 0
    if not number.is_finite() or kind.digits >= _MOST_DIGITS:
        return None
    largest = Decimal(10) ** (kind.digits - scale if kind.digits else _MOST_DIGITS - 2)
    if number.copy_abs() > largest:
        number = largest.copy_sign(number)
    context = Context(prec=len(text) + 80, Emin=MIN_EMIN, Emax=MAX_EMAX)
    units = context.scaleb(number, scale)
    whole = units.to_integral_value(ROUND_FLOOR, context)
    made = whole if whole == units else context.add(whole, Decimal("0.5"))
    return f"{context.scaleb(made, -scale):f}"
