"""SQL expressions that one row can answer: their kinds, functions and types, and how much they may make of a row.

Nothing here reaches outside the row: no subquery, table, window or aggregate, and only the functions that are named here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NoReturn

OWN = "gcnrec_"
"""What our own names of tables and columns begin with. No name of a file reaches DuckDB: columns of files may have such names."""

MOST_DEPTH = 100
"""Of expressions inside expressions."""
TOO_DEEP = f"must have at most {MOST_DEPTH} levels of expressions inside each other; make it simpler"
_MOST_BYTES = 2**28
"""That a condition may make of the rows that a thread of DuckDB holds: its memory limit does not count them."""
_ROWS = 2048
"""That a thread of DuckDB holds."""
_MOST_GROWTH = 128
"""By which a value may become longer than the column that it is made of."""
_VALUE_BYTES = 32
"""What a column's value is taken to have; a function makes no less."""
_KINDS = {"BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION", "LAMBDA"}
_KINDS |= {"OPERATOR", "TYPE"}
_REFUSED = {
    "DEFAULT": "DEFAULT",
    "PARAMETER": "a parameter ($1 or ?)",
    "POSITIONAL_REFERENCE": "a column by its number (#1)",
    "STAR": "a star (* or COLUMNS)",
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
}
_OPERATORS = {"ARRAY_CONSTRUCTOR", "ARRAY_EXTRACT", "ARRAY_SLICE", "COMPARE_IN", "COMPARE_NOT_IN", "OPERATOR_COALESCE"}
_OPERATORS |= {"OPERATOR_IS_NOT_NULL", "OPERATOR_IS_NULL", "OPERATOR_NOT", "OPERATOR_TRY", "STRUCT_EXTRACT"}
_GIVEN = {"COLUMN_REF", "CONSTANT", "TYPE"}
"""What is there already and has not to be made."""
_ANSWERS = {"BETWEEN", "COMPARISON", "CONJUNCTION"}
_ANSWERS |= {"COMPARE_IN", "COMPARE_NOT_IN", "OPERATOR_IS_NOT_NULL", "OPERATOR_IS_NULL", "OPERATOR_NOT"}
"""What is true or false, however long its parts are."""
_TYPE_NAMES = """
bigint bignum binary bit bitstring blob bool boolean bpchar bytea char date datetime dec decimal double enum float float4 float8
guid hugeint int int1 int128 int16 int2 int32 int4 int64 int8 integer integral interval json list logical long map numeric
nvarchar real row short signed smallint string struct text time timestamp timestamp_ms timestamp_ns timestamp_s timestamp_us
timestamptz timetz tinyint ubigint uhugeint uint128 uint16 uint32 uint64 uint8 uinteger union usmallint utinyint uuid varbinary
timestamptz_ns varchar
"""
_TYPES = {*_TYPE_NAMES.split(), "timestamp with time zone", "time with time zone"}
"""Not `variant`, which ends the process on deep JSON, and not arrays, whose length is a number in the text."""
_FUNCTION_NAMES = {
    "operators": """
        + - * / // % ^ ** & | ~ << >> || @ && @> <@ ^@ ->> ~~ !~~ ~~* !~~* ~~~ add subtract multiply divide mod xor like_escape
        ilike_escape not_like_escape not_ilike_escape if nullif greatest least hash
    """,
    "numbers": """
        abs acos acosh asin asinh atan atan2 atanh bit_count cbrt ceil ceiling cos cosh cot degrees even exp factorial fdiv
        floor fmod gamma gcd greatest_common_divisor isfinite isinf isnan lcm least_common_multiple lgamma ln log log10 log2 pi
        pow power radians random round round_even roundbankers sign signbit sin sinh sqrt tan tanh trunc
    """,
    "texts and bytes": """
        ascii base64 bit_length char_length character_length chr concat concat_ws contains decode editdist3 encode ends_with
        from_base64 from_hex hamming hex instr jaccard jaro_similarity jaro_winkler_similarity lcase left left_grapheme len
        length length_grapheme levenshtein lower lpad ltrim md5 md5_number mismatches nfc_normalize octet_length ord overlay
        position prefix regexp_escape regexp_extract regexp_extract_all regexp_full_match regexp_matches regexp_replace
        regexp_split_to_array repeat replace reverse right right_grapheme rpad rtrim sha1 sha256 split split_part starts_with
        str_split str_split_regex string_split string_split_regex string_to_array strip_accents strlen strpos substr substring
        substring_grapheme suffix to_base64 to_hex translate trim ucase unhex unicode upper url_decode
    """,
    "dates and times": """
        age ago century date_add date_diff date_part date_sub date_trunc datediff datepart datesub datetrunc day dayname
        dayofmonth dayofweek dayofyear days_in_month decade epoch epoch_ms epoch_ns epoch_us era get_current_timestamp hour
        isodow isoyear julian last_day make_date make_time make_timestamp make_timestamp_ms make_timestamp_ns make_timestamptz
        microsecond millennium millisecond minute month monthname nanosecond now quarter second strftime strptime time_bucket
        timezone timezone_hour timezone_minute to_centuries to_days to_decades to_hours to_microseconds to_millennia
        to_milliseconds to_minutes to_months to_quarters to_seconds to_timestamp to_weeks to_years today transaction_timestamp
        try_strptime week weekday weekofyear year yearweek
    """,
    "lists, structs, maps and JSON": """
        array_concat array_contains array_distinct array_extract array_has array_has_all array_has_any array_indexof
        array_length array_position array_reverse array_slice array_sort array_to_string array_unique cardinality element_at
        flatten list_any_value list_append list_avg list_concat list_contains list_count list_distinct list_element list_extract
        list_first list_has list_has_all list_has_any list_indexof list_intersect list_last list_max list_median list_min
        list_position list_prepend list_product list_reverse list_reverse_sort list_slice list_sort list_sum list_unique
        list_value list_zip map map_contains map_extract map_extract_value map_keys map_values row struct_extract
        struct_extract_at struct_pack typeof union_extract union_tag json json_array_length json_exists json_extract
        json_extract_path json_extract_path_text json_extract_string json_keys json_type json_valid json_value
    """,
}
_FUNCTIONS = {name for names in _FUNCTION_NAMES.values() for name in names.split()}
"""What may be called: it looks at its arguments, the clock or chance. Not what names settings, tables, files or users, what
fails or waits on purpose, or makes much of little (`range`, `format`, lambdas); `json_contains` ends the process on deep JSON.
"""
_LONGER = {"hex": 2, "to_hex": 2, "to_base64": 2, "base64": 2, "regexp_escape": 4, "strftime": 32}
_LONGER |= dict.fromkeys(("string_split", "str_split", "split", "string_to_array", "string_split_regex", "str_split_regex"), 16)
_LONGER |= dict.fromkeys(("regexp_extract_all", "regexp_split_to_array"), 16)
"""By how much a result can be longer than the arguments together, where it can."""
_TIMES = {"replace": 2, "regexp_replace": 2, "array_to_string": 1, "concat_ws": 0, "regexp_extract": 1, "regexp_extract_all": 1}
_TIMES |= dict.fromkeys(("->>", "json_extract", "json_extract_path", "json_extract_path_text", "json_extract_string"), 1)
_TIMES |= dict.fromkeys(("json_keys", "json_value"), 1)
"""Which argument can bring the others once for each of its bytes: a replacement, a separator, groups of a pattern, paths."""
_SIZED = {"repeat", "lpad", "rpad"}
"""Their second argument is the size of the result; it has to stand there as a number."""
_BRIEF_NAMES = """
    contains list_contains array_contains list_has array_has list_has_any array_has_any list_has_all array_has_all && @> <@
    list_position list_indexof array_position array_indexof regexp_matches regexp_full_match ~~ !~~ ~~* !~~* ~~~ like_escape
    ilike_escape not_like_escape not_ilike_escape starts_with ends_with prefix suffix ^@ len length hash
"""
_BRIEF = set(_BRIEF_NAMES.split())
"""What gives a number, true or false, however long its arguments are: lists of ids, patterns of many words."""


class Refused(Exception):
    """Why a text is no condition: what follows `where = '...'` in the message."""


def refuse(what: str, advice: str = "leave that out") -> NoReturn:
    """Raise Refused for something that a condition has and must not have."""
    raise Refused(f"must be one condition on the columns of a row, it has {what}; {advice}")


def columns_of(clause: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    """The columns that a WHERE clause refers to, in their order, as paths: of `a.b`, a field of a struct, (a, b).

    `clause` is as DuckDB's json_serialize_sql writes it. Raises Refused unless one row can answer all of it.
    """
    visit = _Visit()
    visit.bytes_of(clause)
    return tuple(visit.columns)


@dataclass(slots=True)
class _Visit:
    """A walk over the expressions of a WHERE clause that refuses all it does not know."""

    columns: dict[tuple[str, ...], None] = field(default_factory=dict)
    varying: int = 0
    """Columns, the clock and chance, counted: an expression without any is one value, not one a row."""
    made: int = 0
    """Bytes that the expressions so far make of `_ROWS` rows."""
    depth: int = 0
    """Expressions around the current one."""

    def bytes_of(self, node: Any) -> int:
        """Bytes that the value of an expression, or the values of all expressions in a list or dict, take at most."""
        if isinstance(node, list):
            return sum(map(self.bytes_of, node))
        if not isinstance(node, dict):
            return 0
        if "class" not in node:
            return self.bytes_of(list(node.values()))
        before, self.depth = self.varying, self.depth + 1
        if self.depth > MOST_DEPTH:
            raise Refused(TOO_DEEP)
        size = self._expression(node)
        self.depth -= 1
        if node["class"] in _GIVEN:
            return size
        varies = self.varying > before
        self.made += size * (_ROWS if varies else 1)
        if self.made > _MOST_BYTES or (varies and size > _MOST_GROWTH * _VALUE_BYTES):
            raise Refused("must not make long values of short ones, it could fill the memory; make it simpler")
        return size

    def _expression(self, node: dict[str, Any]) -> int:
        kind, inside = str(node["class"]), [value for key, value in node.items() if key != "class"]
        if kind not in _KINDS or (kind == "OPERATOR" and node["type"] not in _OPERATORS):
            refuse(_REFUSED.get(kind, f"what DuckDB calls {node['type']}"))
        match kind:
            case "CONSTANT":
                return len(node["literal"]["text"]) + 1
            case "COLUMN_REF":
                return self._column(node["column_names"])
            case "TYPE":
                return self._type(node)
            case "FUNCTION":
                return self._function(node)
            case "COLLATE":
                name = str(node["collation"])
                if not all(part.isalpha() for part in name.replace("_", ".").split(".")):
                    refuse(f"the collation {name!r}", "name one such as nocase or de")
            case "LAMBDA" if node["syntax_type"] == "SINGLE_ARROW":
                document, path = self.bytes_of(node["lhs"]), self.bytes_of(node["expr"])  # JSON -> path
                return document + path if _is_short("json", [node["lhs"], node["expr"]]) else document * (1 + path)
            case "LAMBDA":
                refuse("a lambda")
            case "CASE":
                checks = [(self.bytes_of(check["when_expr"]), self.bytes_of(check["then_expr"])) for check in node["case_checks"]]
                return max(self.bytes_of(node["else_expr"]), *(then for _, then in checks))
        size = self.bytes_of(inside)
        if kind == "CAST":  # to text: quotes around what is quoted already double its escapes
            return 2 * size + _VALUE_BYTES
        return 1 if _ANSWERS & {kind, node["type"]} else size

    def _column(self, path: list[str]) -> int:
        self.columns[tuple(path)] = None
        self.varying += 1
        return _VALUE_BYTES

    def _type(self, node: dict[str, Any]) -> int:
        name = str(node["type_name"])
        if name.lower() not in _TYPES or node["qualified_name"] != {"path": [name]} or node["catalog"] or node["schema"]:
            refuse(f"the type {name}", "cast to another one")
        for child in node["children"]:
            if child.get("class") not in ("TYPE", "CONSTANT"):
                refuse(f"an expression inside the type {name}")
            self.bytes_of(child)
        return 0

    def _function(self, node: dict[str, Any]) -> int:
        name = str(node["function_name"]).lower()
        if node["schema"] or node["catalog"] or node["qualified_name"] != {"path": [node["function_name"]]}:
            path = ".".join(node["qualified_name"]["path"])
            refuse(f"the function {path}()", f"write {name}(...), the value inside the parentheses")
        if name not in _FUNCTIONS:
            near = get_close_matches(name, _FUNCTIONS, n=1, cutoff=0.8)
            refuse(f"the function {name}()", f"did you mean {near[0]}()?" if near else "leave that out")
        if node["distinct"] or node["filter"] or node["order_bys"]["orders"] or node["export_state"]:
            refuse(f"DISTINCT, FILTER or ORDER BY inside {name}()")
        self.varying += not node["arguments"]
        given = [self.bytes_of(argument["expression"]) for argument in node["arguments"]]
        if name in _BRIEF:
            return _VALUE_BYTES
        if name in _SIZED:
            size = _size(name, node["arguments"])
            return sum(given) * size if name == "repeat" else sum(given) + 4 * size  # a character has up to four bytes
        if _is_short(name, [argument["expression"] for argument in node["arguments"]]):
            return max(sum(given), _VALUE_BYTES)
        times = 1 + given[_TIMES[name]] if len(given) > _TIMES.get(name, len(given)) else 1
        return max(sum(given) * times * _LONGER.get(name, 1), _VALUE_BYTES)


def _is_short(name: str, arguments: list[dict[str, Any]]) -> bool:
    """Whether a call of one of `_TIMES` makes no more than its arguments are together, by its constants."""
    texts = [argument["literal"].get("text", "") if argument["class"] == "CONSTANT" else None for argument in arguments]
    if name == "replace":  # of a text by another that is no longer
        source, target = (texts[1], texts[2]) if len(texts) == 3 else (None, None)
        return source is not None and target is not None and len(target.encode()) <= len(source.encode())
    if name == "regexp_extract":  # one group, which is part of the text; a list of names gives as many
        return len(texts) < 3 or texts[2] is not None
    if name.startswith("json") or name == "->>":  # one place of the document, without a wildcard
        return len(texts) == 2 and texts[1] is not None and "*" not in texts[1] and ".." not in texts[1]
    return False


def _size(name: str, arguments: list[dict[str, Any]]) -> int:
    """The second argument of a call of `name`, at least 1."""
    literal = arguments[1]["expression"].get("literal", {}) if len(arguments) > 1 else {}
    if literal.get("kind") != "INTEGER" or len(literal["text"]) > 18:
        refuse(f"{name}() of a size that is no plain number", "write the number as the second argument")
    return max(int(literal["text"]), 1)
