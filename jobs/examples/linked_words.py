"""Adds to the words of every item the mean of the words of the items it is linked to: citations, trust, bought together.

    python jobs/examples/linked_words.py ITEMS.parquet LINKS.parquet OUT.parquet --item article --other cites

ITEMS has a column of ids (--item), one with lists of words (--words) and one with lists of their counts (--counts). LINKS has a
pair of ids to a row, in --item and --other; direction and repetition do not matter, links to items without words do nothing.
OUT is like ITEMS, with counts as float32, for `item_features` of a job or for `gcnrec recommend --new-items`. This is one step of
the simplified graph convolution of Wu et al. 2019 ("Simplifying graph convolutional networks") on counts of words.
"""

import argparse
from pathlib import Path

import duckdb

QUERY = """
COPY (
    WITH links AS (SELECT {item} AS a, {other} AS b FROM read_parquet($links) WHERE {item} <> {other}),
    pairs AS (SELECT a, b FROM links UNION SELECT b, a FROM links),
    entries AS (SELECT {item} AS id, unnest({words}) AS word, unnest({counts}) AS count FROM read_parquet($items)),
    shares AS (SELECT a, b, 1.0 / count(*) OVER (PARTITION BY a) AS share FROM pairs WHERE b IN (SELECT id FROM entries)),
    mixed AS (SELECT * FROM entries UNION ALL SELECT a, word, share * count FROM shares JOIN entries ON id = b),
    sums AS (SELECT id, word, sum(count)::FLOAT AS count FROM mixed WHERE word IS NOT NULL GROUP BY ALL)
    SELECT {item}, words AS {words}, counts AS {counts}
    FROM (SELECT {item} FROM read_parquet($items)) LEFT JOIN
         (SELECT id, list(word ORDER BY word) AS words, list(count ORDER BY word) AS counts FROM sums GROUP BY id) ON id = {item}
    ORDER BY {item}
) TO '{out}'
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("items", "links", "out"):
        parser.add_argument(name, type=Path)
    for name, default in (("item", "item"), ("other", "other"), ("words", "words"), ("counts", "counts")):
        parser.add_argument(f"--{name}", default=default)
    given = parser.parse_args()
    if given.out.exists():
        parser.error(f"{given.out} exists already; name another file")
    columns = {name: '"' + getattr(given, name).replace('"', '""') + '"' for name in ("item", "other", "words", "counts")}
    query = QUERY.format(**columns, out=str(given.out).replace("'", "''"))
    try:
        duckdb.execute(query, {"items": str(given.items), "links": str(given.links)})
    except duckdb.Error as problem:  # a missing file or column
        parser.error(str(problem))


if __name__ == "__main__":
    main()
