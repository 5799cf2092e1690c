"""`gcnrec recommend --segment`: lists by segment are the lists of each segment's users from its items alone."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.api.lists import recommend
from gcnrec.config import Job
from gcnrec.errors import DataError, UsageError
from gcnrec.results.outputs import Output
from gcnrec.results.relisting import Relisting
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training.train import train

K = 4
COUNTRIES = ("at", "de", "fr")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segments")
    job = {"model": {"name": "itemknn"}, "evaluate": {"k": [3], "metric": "recall@3", "bootstrap": 0, "baselines": []}}
    return train(Job.parse(job, [], "t"), write_dataset(checkerboard(), folder / "data"), folder / "run")


@pytest.fixture(scope="module")
def world(run):
    """A country of each user, and pairs of item and country: items 0, 2, 4 ... in two countries, the others in one."""
    users = {user: COUNTRIES[at % 3] for at, user in enumerate(run.dataset.user_ids.ids.to_pylist())}
    items = run.dataset.item_ids.ids.to_pylist()
    stock = [(item, COUNTRIES[(at + more) % 3]) for at, item in enumerate(items) for more in range(2 if at % 2 == 0 else 1)]
    return users, stock


def write(path, *columns, names):
    table = pa.table(list(columns), names=names)
    if path.suffix == ".csv":
        path.write_text("\n".join([",".join(names), *(",".join(map(str, row.values())) for row in table.to_pylist())]) + "\n")
    else:
        pq.write_table(table, path)
    return path


def write_world(folder, world, ending="parquet", unknown=True):
    users, stock = world
    people = [*reversed(users.items()), *([("nobody", "it")] if unknown else [])]
    rows = [*stock, stock[0], (77, "de"), (stock[0][0], "it")] if unknown else stock
    return (
        write(folder / f"users.{ending}", *map(list, zip(*people, strict=True)), names=["user", "country"]),
        write(folder / f"stock.{ending}", *map(list, zip(*rows, strict=True)), names=["item", "country"]),
    )


def by_segment(run, world, folder, **options):
    """Lists by user, from a call for each country with its users and items as plain files."""
    users, stock = world
    found = {}
    for country in COUNTRIES:
        own = write(folder / "own.csv", [user for user, of in users.items() if of == country], names=["user"])
        offered = write(folder / "offered.csv", [item for item, of in stock if of == country], names=["item"])
        recommend(run, K, Output(folder / "part.parquet", force=True), users=own, items=offered, **options)
        for row in pq.read_table(folder / "part.parquet").to_pylist():
            found.setdefault(row["user"], []).append((row["item"], row["score"]))
    return found


@pytest.mark.parametrize("ending", ["parquet", "csv"])
@pytest.mark.parametrize("options", [{}, {"seen": "none"}, "exclude", "cap"])
def test_each_user_gets_the_items_of_the_own_segment(run, world, tmp_path, ending, options):
    items = run.dataset.item_ids.ids.to_pylist()
    if options == "exclude":
        options = {"exclude": write(tmp_path / "gone.csv", items[:3], names=["item"])}
    elif options == "cap":
        kinds = write(tmp_path / "kinds.csv", items, [at % 2 for at in range(len(items))], names=["item", "kind"])
        options = {"relisting": Relisting({"kind": 2}, kinds)}
    users, stock = write_world(tmp_path, world, ending)
    made = recommend(run, K, tmp_path / "out.parquet", users=users, items=stock, segment="country", **options)
    found = {}
    for row in pq.read_table(tmp_path / "out.parquet").to_pylist():
        found.setdefault(row["user"], []).append((row["item"], row["score"]))
    assert found == by_segment(run, world, tmp_path, **options)
    assert list(found) == [user for user in reversed(world[0]) if user in found]
    assert made.dropped["users"] == {"rows": len(world[0]) + 1, "unknown_user": 1, "repeated": 0}
    assert made.dropped["items"] == {"rows": len(world[1]) + 3, "unknown_item": 1, "not_asked": 1, "repeated": 1}


def test_the_command_takes_it(gcnrec, run, world, tmp_path):
    users, stock = write_world(tmp_path, world, unknown=False)
    assert gcnrec("recommend", run.folder, "--users", users, "--items", stock, "--segment", "country", "--out", "a.csv")[0] == 0
    code, _, err = gcnrec("recommend", run.folder, "--items", stock, "--segment", "country", "--out", "b.csv")
    assert code == 2 and "--segment needs --users FILE and --items FILE with the column 'country' each; name both" in err


def test_mistakes_are_sentences(run, world, tmp_path):
    users, stock = write_world(tmp_path, world, unknown=False)
    user, item = next(iter(world[0])), world[1][0][0]

    def refused(words, kind=DataError, **files):
        with pytest.raises(kind, match=words):
            recommend(run, K, tmp_path / "out.parquet", **{"users": users, "items": stock, "segment": "country", **files})
        assert not (tmp_path / "out.parquet").exists()

    refused("--candidates says what each user may get, and so does --segment", UsageError, candidates=stock)
    refused("must have the column 'region' of --segment, it has 'user', 'country'", segment="region")
    pq.write_table(pa.table({"user": [user, "u1"], "country": ["at", None]}), tmp_path / "null.parquet")
    refused(r"column 'country' must have a value in each row, 1 of 2 have none, first row 2;", users=tmp_path / "null.parquet")
    pq.write_table(pa.table({"user": [user], "country": [float("nan")]}), tmp_path / "nan.parquet")
    refused(r"column 'country' must have a value in each row, 1 of 1 have none, first row 1;", users=tmp_path / "nan.parquet")
    blank = write(tmp_path / "blank.csv", [item], [""], names=["item", "country"])
    refused("must have a value in each row, 1 of 1 have none, first row 1", items=blank)
    twice = write(tmp_path / "twice.csv", [user, user], ["at", "de"], names=["user", "country"])
    refused("must give each id one 'country', row 2 gives another than a row before; keep one row of each", users=twice)
    few = write(tmp_path / "few.csv", [item, item, 77], ["at", "fr", "de"], names=["item", "country"])
    refused("must name items for each 'country' of the users, none of its known items is for 'de', which", items=few)
    pq.write_table(pa.table({"user": [user], "country": [["at"]]}), tmp_path / "nested.parquet")
    refused("--segment needs a column of texts or numbers, 'country' is of type list", users=tmp_path / "nested.parquet")
