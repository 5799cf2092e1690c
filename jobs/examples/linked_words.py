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

# {item} and the like are quoted names of the user's columns: behind a table's name, so that none is taken for one of ours.
QUERY = """
COPY (
    WITH links AS (SELECT l.{item} AS a, l.{other} AS b FROM read_parquet($links) AS l WHERE l.{item} <> l.{other}),
    items AS (SELECT i.{item} AS id, i.{words} AS words, i.{counts} AS counts FROM read_parquet($items) AS i),
    pairs AS (SELECT a, b FROM links UNION SELECT b, a FROM links),
    entries AS (SELECT id, unnest(words) AS word, unnest(counts) AS count FROM items),
    shares AS (SELECT a, b, 1.0 / count(*) OVER (PARTITION BY a) AS share FROM pairs WHERE b IN (SELECT id FROM entries)),
    mixed AS (SELECT * FROM entries UNION ALL SELECT a, word, share * count FROM shares JOIN entries ON id = b),
    sums AS (SELECT id, word, sum(count)::FLOAT AS count FROM mixed WHERE word IS NOT NULL GROUP BY ALL),
    lists AS (SELECT id, list(word ORDER BY word) AS words, list(count ORDER BY word) AS counts FROM sums GROUP BY id)
    SELECT items.id AS {item}, lists.words AS {words}, lists.counts AS {counts}
    FROM items LEFT JOIN lists ON lists.id = items.id
    ORDER BY items.id
) TO {out} (FORMAT parquet)
"""


def quoted(text: str, mark: str) -> str:
    """SQL for a name (marked ") or a text (marked ')."""
    return mark + text.replace(mark, mark + mark) + mark


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("items", "links", "out"):
        parser.add_argument(name, type=Path)
    for name, default in (("item", "item"), ("other", "other"), ("words", "words"), ("counts", "counts")):
        parser.add_argument(f"--{name}", default=default)
    given = parser.parse_args()
    if given.out.exists():
        parser.error(f"{given.out} exists already; name another file")
    columns = {name: getattr(given, name) for name in ("item", "other", "words", "counts")}
    if len({columns[name].lower() for name in ("item", "words", "counts")}) < 3:
        parser.error("--item, --words and --counts must name three columns")
    query = QUERY.format(**{name: quoted(column, '"') for name, column in columns.items()}, out=quoted(str(given.out), "'"))
    try:
        # Neither this nor what it reads may bring code from elsewhere.
        config = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
        with duckdb.connect(":memory:", config=config) as connection:
            connection.execute(query, {"items": str(given.items), "links": str(given.links)})
    except (duckdb.Error, UnicodeError) as problem:  # a missing file or column, a name that is no text
        parser.error(str(problem))


if __name__ == "__main__":
    main()
