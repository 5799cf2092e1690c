"""The dataset folder that an ingestion must make, by docs/your-data.md: plain Python, without NumPy, Arrow, SQL or gcnrec."""

import math
from collections import Counter
from fnmatch import fnmatchcase
from fractions import Fraction
from pathlib import PurePosixPath
from urllib.parse import unquote

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def answer(case):
    """Words of refusals, one of which must come, or the folder where there are none."""
    why, report, parts, kinds, data = set(), {}, {"train": [], "valid": [], "test": []}, set(), case.data
    for role, source in case.inputs.items():
        rows = [row for file in source.files if listed(source, file.path) for row in rows_of(file, source.root, data, why)]
        met = conditions(case, role, {name for row in rows for name in row}, why)
        parts[role] = [event(row, data, why) for row in rows if all(each.holds(row) for each in met)]
        report |= {f"rows_{role}": len(rows), f"filtered_{role}": len(rows) - len(parts[role])}
        why |= set() if parts[role] else {"removes all", "holds no rows"}
        kinds |= {(side, type(row[data[side]])) for row in rows for side in ("user", "item") if row.get(data[side]) is not None}
    why |= set() if len({side for side, _ in kinds}) == len(kinds) else {"one type in all"}
    return why, None if why else folder(parts, case, report, why)


def listed(source, path):
    """Whether a path is read: below what the user named no name begins with _ or ., and a pattern matches all of it."""
    parts, pattern = PurePosixPath(path).parts, PurePosixPath(source.text).parts
    fits = "*" not in source.text or (len(parts) == len(pattern) and all(map(fnmatchcase, parts, pattern)))
    below = parts[len(PurePosixPath(source.root).parts) :]
    return fits and path.endswith(".parquet") and not any(part[0] in "._" for part in below)


def rows_of(file, root, data, why):
    """Rows as {column: value}; key=value of a folder counts where the file lacks the column: text, or the declared integer."""
    pairs = [part.split("=", 1) for part in PurePosixPath(file.path).relative_to(root).parts[:-1] if "=" in part]
    keys = {name: (int if name in data.get("partition_type", {}) else unquote)(text) for name, text in pairs}
    columns = sorted(file.columns, key=lambda column: not column.nested)  # a column called a.b wins over field b of a
    why |= {"one name"} if len({(each.name, each.nested) for each in columns}) < len(columns) else set()
    return [keys | {each.name: each.values[row] for each in columns} for row in range(file.rows)]


def conditions(case, role, names, why):
    """Train meets where; a held-out file where_test, else where if it has the columns; every row meets min_rating."""
    where = case.where if role == "train" or not case.where_test else case.where_test
    where = None if where is case.where and role != "train" and where and not where.columns <= names else where
    needed = {case.data[key] for key in ("user", "item", "time", "weight", "rating") if key in case.data}
    why |= set() if needed | (where.columns if where else set()) <= names else {"has no", "has none", "removes all"}
    return [each for each in (where, case.rated) if each]


def event(row, data, why):
    """(user, item, seconds, weight) of a row that is kept; a number of a time counts units, without fractions."""
    user, item, time, weight = found = [row.get(data[key]) if key in data else 0 for key in ("user", "item", "time", "weight")]
    why |= {"holds nulls"} if None in found or time != time else set()
    why |= {"non-finite weight"} if weight is not None and not 0 <= weight < math.inf else set()
    return user, item, time if why or isinstance(time, Fraction) else Fraction(int(time), UNITS[data["time_unit"]]), weight


def split(rows, case):
    """Rows by part: the newest in time, or the last of each user and the one before, never the first."""
    cut, data, left, after = {"train": [], "valid": [], "test": []}, case.data, Counter(row[0] for row in rows), Counter()
    test_from = newest(rows, data["test_size"]) if case.test_from is None else case.test_from
    valid_from = newest([row for row in rows if row[2] < test_from], data["valid_size"])
    for row in sorted(rows, key=lambda row: (row[2], row[1], row[3]), reverse=True):
        part = "test" if row[2] >= test_from else "valid" if row[2] >= valid_from else "train"
        if data["split"] == "leave_last":
            ends = ["test", "valid" if data["valid_size"] else "train"][: left[row[0]] - 1]
            part, after[row[0]] = [*ends, *["train"] * len(rows)][after[row[0]]], after[row[0]] + 1
        cut[part].append(row)
    return cut


def newest(rows, share):
    """The time from which on at least a share of the rows lies."""
    times, place = sorted(row[2] for row in rows), int((1 - share) * len(rows))
    return times[place] if place < len(times) else math.inf


def core(pairs, k):
    """Pairs that are left when no user and no item has fewer than k distinct ones."""
    users, items = Counter(user for user, _ in pairs), Counter(item for _, item in pairs)
    left = {(user, item) for user, item in pairs if users[user] >= k and items[item] >= k}
    return left if len(left) == len(pairs) else core(left, k)


def merged(rows, data):
    """{pair: (seconds, weight)}: the latest row, of equal times the heaviest; with sum, weights add up, 1 for a row without."""
    pairs, total, adds = {}, Counter(), data["duplicates"] == "sum"
    for user, item, time, weight in sorted(rows, key=lambda row: row[2:]):
        total[user, item] += weight if "weight" in data else 1
        known = float(total[user, item] if adds else weight) if adds or "weight" in data else None
        pairs[user, item] = (math.floor(time) if "time" in data else None, known)
    return pairs


def folder(parts, case, report, why):
    """The k-core comes before a drawn split, else in train; then repeats and cold pairs go, and degrees number the nodes."""
    data, last = case.data, case.data["split"] == "leave_last"
    if data["split"] != "given":
        alive = core({row[:2] for row in parts["train"]}, data["k_core"] if last else 0)
        parts = split([row for row in parts["train"] if row[:2] in alive], case)
    pairs = {part: merged(rows, data) for part, rows in parts.items()}
    report |= {f"duplicates_{part}": len(rows) - len(pairs[part]) for part, rows in parts.items()}
    alive = core(set(pairs["train"]), 0 if last else data["k_core"])
    train = pairs["train"] = {pair: facts for pair, facts in pairs["train"].items() if pair in alive}
    why |= set() if train else {"no train interaction", "k_core"}
    users, items = Counter(user for user, _ in train), Counter(item for _, item in train)
    for part, seen in (("valid", set(train)), ("test", {*train, *pairs["valid"]})):
        again = seen & set(pairs[part])
        left = set(pairs[part]) - (again if data["repeats"] == "drop" else set())
        cold = {pair for pair in left if not (data["keep_cold"] or (users[pair[0]] and items[pair[1]]))}
        report |= {f"repeats_{part}": len(again), f"cold_{part}": len(cold)}
        pairs[part] = {pair: pairs[part][pair] for pair in left - cold}
    for side, (name, degrees) in enumerate((("users", users), ("items", items))):
        nodes = {*degrees, *(pair[side] for part in ("valid", "test") for pair in pairs[part])}
        pairs[name] = sorted(((node, degrees[node]) for node in nodes), key=lambda node: (-node[1], node[0]))
    return {**pairs, "report": report}
