"""The keys of a drafted job: each is valid, fits data and machine, and has its reason."""

from __future__ import annotations

import tomllib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.config import Job
from gcnrec.config.reference import settings
from gcnrec.draft.choices import Features, Machine, Sizes, model_choices
from gcnrec.draft.from_parquet import drafted
from gcnrec.draft.roles import Named
from gcnrec.errors import DataError

RNG = np.random.default_rng(0)
ROWS = 400
USERS, ITEMS = RNG.integers(0, 50, ROWS), RNG.integers(0, 40, ROWS)
MACHINE = Machine(16 * 10**9, 2)


@pytest.fixture
def draft(tmp_path):
    def make(machine=MACHINE, **columns):
        path = tmp_path / "t.parquet"
        pq.write_table(pa.table({"user": USERS, "item": ITEMS, **columns}), path)
        return drafted(str(path), Named(), machine)

    return make


def values(made):
    return {f"{choice.section}.{choice.key}": choice.value for choice in made.choices if choice.on}


def test_the_job_says_what_was_chosen_and_each_line_is_valid(draft):
    made = draft(ts=1_700_000_000_000 + np.arange(ROWS), qty=RNG.integers(1, 9, ROWS))
    sections = tomllib.loads(made.job)
    assert {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()} == values(made)
    job = Job.parse(sections, [], "drafted")
    assert (job.data.user, job.data.item, job.data.time, job.data.time_unit) == ("user", "item", "ts", "ms")
    assert job.data.split == "temporal"


def test_each_commented_key_can_be_switched_on(draft):
    lines = draft(ts=1_700_000_000 + np.arange(ROWS), qty=RNG.integers(1, 9, ROWS)).job.splitlines()
    tried = [number for number, line in enumerate(lines) if line.startswith("#") and not line.startswith("# ")]
    assert len(tried) >= 4
    for number in tried:
        text = "\n".join([*lines[:number], lines[number][1:], *lines[number + 1 :]])
        weight = {"weight": "qty"} if "weight_log" in lines[number] else {}
        sections = tomllib.loads(text)
        Job.parse({**sections, "data": {**sections["data"], **weight}}, [], lines[number])


def test_meanings_are_those_of_the_reference(draft):
    text = " ".join(draft().job.replace("\n#", "").split())
    for name in values(draft()):
        assert " ".join(settings(name)[0].meaning.split()) in text, name


def test_without_times_the_split_is_drawn(draft):
    assert values(draft())["data.split"] == "random"


@pytest.mark.parametrize(
    ("stars", "least", "below"),
    [([1, 2, 3, 4, 5], 4, 3), ([0.5, 1.5, 2.5, 3.5, 4.5, 5.0], 4.5, 3.5), ([1, 10, 8, 7], 8, 7), ([0, 1], 1, 1)],
)
def test_ratings_count_from_the_upper_part_of_their_scale(draft, stars, least, below):
    found = values(draft(rating=np.array(stars)[RNG.integers(0, len(stars), ROWS)]))
    assert found["data.min_rating"] == least
    assert found.get("data.negative_below", below) == below


def test_many_zeros_below_a_scale_are_no_ratings(draft):
    shelved = draft(rating=np.array([0, 0, 0, 1, 2, 3, 4, 5])[np.arange(ROWS) % 8])
    assert values(shelved)["data.min_rating"] == 4 and "data.negative_below" not in values(shelved)
    text = shelved.job.replace("\n#", "")
    assert "scale from 1 to 5; 0, in 38% of the rows, is taken for no rating" in text and "negative_below = 3" in text
    few = values(draft(rating=np.where(np.arange(ROWS) < 20, 0, 1 + np.arange(ROWS) % 5)))
    assert (few["data.min_rating"], few["data.negative_below"]) == (4, 3)


def test_a_threshold_leaves_a_fifth_of_the_rows(draft):
    rating = np.where(np.arange(ROWS) < 20, 5, np.where(np.arange(ROWS) < 200, 3, 1))
    assert values(draft(rating=rating))["data.min_rating"] == 3


def test_rows_without_an_id_or_a_behaviour_are_left_out_first(draft):
    events = pa.array([None if n % 50 == 0 else ("view", "cart", "remove_from_cart", "buy")[n % 4] for n in range(ROWS)])
    users = pa.array([None if n % 40 == 0 else n % 30 for n in range(ROWS)])
    made = draft(user=users, event=events, ts=np.where(np.arange(ROWS) == 7, np.nan, 1.7e9 + np.arange(ROWS)))
    assert values(made)["data.where"] == (
        '"user" IS NOT NULL AND "ts" > 0 AND "event" IS NOT NULL AND "event" NOT IN (\'remove_from_cart\')'
    )
    assert values(made)["data.target"] == ["buy"]
    assert (
        "\nwhere = '''\"user\" IS NOT NULL AND" in made.job
        and tomllib.loads(made.job)["data"]["where"] == values(made)["data.where"]
    )


def of_size(rows, users, items, machine, draft):
    chosen = model_choices(Sizes(rows, users, items, True), machine, draft().roles, Features())
    return {f"{choice.section}.{choice.key}": choice.value for choice in chosen if choice.on}


def test_exact_propagation_while_it_takes_hours_at_most(draft):
    small = of_size(800_000, 30_000, 40_000, MACHINE, draft)
    assert small["model.propagation"] == "full" and "sampler.fraction" not in small and "train.batch_size" not in small
    large = of_size(10**8, 10**6, 10**5, MACHINE, draft)
    assert large["model.propagation"] == "sampled" and large["sampler.fraction"] == pytest.approx(0.1)
    assert large["evaluate.every"] == 5 and "table.placement" not in large


def test_a_table_beyond_the_memory_lies_on_disk(draft):
    found = of_size(5 * 10**7, 10**7, 10**6, Machine(4 * 10**9, 2), draft)
    assert (found["table.placement"], found["model.start"]) == ("disk", "normal")
    assert "table.placement" not in of_size(5 * 10**7, 10**7, 10**6, Machine(64 * 10**9, 2), draft)
    assert found["evaluate.memory_limit"] == "1GB"


@pytest.mark.parametrize(("rows", "batch"), [(100, 64), (5000, 128), (19_000, 512), (20_000, None)])
def test_small_data_has_small_batches(draft, rows, batch):
    assert of_size(rows, 100, 100, MACHINE, draft).get("train.batch_size") == batch


@pytest.mark.parametrize(("memory", "limit"), [(64 * 10**9, None), (6 * 10**9, "1GB"), (10**9, "128MB"), (3 * 10**8, "64MB")])
def test_memory_limits_take_a_quarter_of_what_is_free(draft, memory, limit):
    found = values(draft(machine=Machine(memory, 2)))
    assert found.get("data.memory_limit") == found.get("evaluate.memory_limit") == limit


def test_features_choose_the_model_that_reads_them(tmp_path):
    pq.write_table(pa.table({"user": USERS, "item": ITEMS}), tmp_path / "t.parquet")
    pq.write_table(pa.table({"item": np.arange(40), "price": RNG.random(40)}), tmp_path / "items.parquet")
    made = drafted(str(tmp_path / "t.parquet"), Named(), MACHINE, Features(item=str(tmp_path / "items.parquet")))
    found = values(made)
    assert (found["model.name"], found["model.propagation"]) == ("graphsage", "sampled")
    assert found["data.item_features"] == str(tmp_path / "items.parquet") and "#item_features" not in made.job
    pq.write_table(pa.table({"itm": np.arange(40)}), tmp_path / "others.parquet")
    with pytest.raises(DataError, match=r"others\.parquet .*'item'"):
        drafted(str(tmp_path / "t.parquet"), Named(), MACHINE, Features(item=str(tmp_path / "others.parquet")))


def test_odd_names_stay_what_they_are(tmp_path):
    odd = 'user "id"\n# x'
    path = tmp_path / "t.parquet"
    users = pa.array([None if n % 40 == 0 else n % 30 for n in range(ROWS)])
    pq.write_table(pa.table({odd: users, "artikel é": ITEMS}), path)
    sections = tomllib.loads(drafted(str(path), Named(user=odd), MACHINE).job)
    assert (sections["data"]["user"], sections["data"]["item"]) == (odd, "artikel é")
    assert sections["data"]["where"] == '"user ""id""\n# x" IS NOT NULL'
