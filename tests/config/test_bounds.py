"""Every number of the job has bounds, which its page states, and what passes them is refused by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import annotated_types
import pytest

from gcnrec.config import Job
from gcnrec.errors import UsageError

PAGE = (Path(__file__).parents[2] / "docs" / "job-file.md").read_text(encoding="utf-8")
ANY_NUMBER = {("data", "test_from"), ("data", "test_until"), ("data", "min_rating"), ("data", "negative_below")}
"""Compared with numbers of the data, whatever they are."""


def metadata(annotation, outer=()):
    """The parts of an annotation that are numbers, each with what bounds it."""
    if annotation in (int, float):
        yield tuple(outer)
        return
    inner, *more = get_args(annotation) or (None,)
    if hasattr(annotation, "__metadata__"):
        yield from metadata(inner, [*outer, *annotation.__metadata__])
    elif inner is not None:
        for part in (inner, *more):
            yield from metadata(part, outer)


def bounds(parts):
    found = {}
    for part in parts:
        for one in getattr(part, "metadata", [part]):
            for name, kind in (("ge", annotated_types.Ge), ("gt", annotated_types.Gt), ("le", annotated_types.Le),
                               ("lt", annotated_types.Lt)):  # fmt: skip
                if isinstance(one, kind):
                    found[name] = getattr(one, name)
    return found


def numbers():
    """(section, key as the page has it) -> bounds of each number that may stand there, by the code."""
    for section, field in Job.model_fields.items():
        for key, part in field.annotation.model_fields.items():
            found = [bounds([*part.metadata, *each]) for each in metadata(part.annotation)]
            if found and (section, key) not in ANY_NUMBER:
                yield (section, part.alias or key), found[0]


NUMBERS = dict(numbers())


def stated(section, key):
    """The two ends that the page states of a key, and which of them are left out."""
    part = re.search(rf"^### `\[{section}\]`$(.*?)(?=^### |\Z)", PAGE, re.MULTILINE | re.DOTALL)[1]
    values = re.search(rf"^\| `{key}` \| [^|]+ \| ([^|]+) \|", part, re.MULTILINE)[1]
    above, low, below, high = re.search(r"(above )?(-?[\d.,e^-]+) to (below )?([\d.,^]+(?: - 1)?)", values).groups()
    return number(low), bool(above), number(high), bool(below)


def number(text):
    text = text.replace(",", "").rstrip(".")
    power = re.fullmatch(r"(\d+)\^(\d+)( - 1)?", text)
    return int(power[1]) ** int(power[2]) - bool(power[3]) if power else float(text) if set(text) & set(".e") else int(text)


def test_every_number_has_an_upper_bound():
    assert [key for key, found in NUMBERS.items() if not found.keys() & {"le", "lt"}] == []
    assert len(NUMBERS) > 50


@pytest.mark.parametrize(("section", "key"), NUMBERS)
def test_the_page_states_the_bounds_of_the_code(section, key):
    low, above, high, below = stated(section, key)
    found = NUMBERS[section, key]
    whole = "lt" in found and isinstance(found["lt"], int)  # 0 to 2^31 - 1
    assert (low, above) == (found.get("ge", found.get("gt")), "gt" in found)
    most = found["lt"] - 1 if whole else found.get("le", found.get("lt"))
    assert (type(most)(high), below) == (most, "lt" in found and not whole)


@pytest.mark.parametrize(
    "setting",
    [
        "train.epochs=1000001", "train.batch_size=99999999", "sampler.num_negatives=10001", "evaluate.bootstrap=100001",
        "sparsity.interval=1e308", "sparsity.interval=inf", "evaluate.k=[1000000000]", "model.width=65537", "train.threads=5000",
        "data.k_core=2147483648", "optimizer.learning_rate=nan", "run.keep_checkpoints=1e30", "evaluate.metric=recall@1000000000",
        "evaluate.metric=recall@1\u0662", "evaluate.metric=recall@" + "9" * 30, "model.factors=1e9",
        "mixture.weights=[1e308]", "run.checkpoint_steps=9000000000000000000", "table.cache_bytes=9000000000000000000",
        "evaluate.k=[" + "1," * 101 + "]", "data.train=" + "a" * 5000, 'run.mlflow="a\\u0000"', 'data.where="\\u0000"',
    ],
)  # fmt: skip
def test_beyond_is_one_sentence_with_file_and_key(setting):
    with pytest.raises(UsageError) as caught:
        Job.parse({}, [setting], "job.toml")
    message = str(caught.value)
    assert message.startswith(f"job.toml: {setting.partition('=')[0]}") and "\n" not in message and len(message) < 500


def test_negatives_of_a_step_are_bounded():
    drawn = ["sampler.negatives=uniform", "train.batch_size=1000000", "sampler.num_negatives=1000"]
    assert Job.parse({}, drawn, "job").train.batch_size == 10**6
    with pytest.raises(UsageError, match=r"draws 1,001,000,000 negatives a step, at most 1,000,000,000"):
        Job.parse({}, [*drawn, "sampler.num_negatives=1001"], "job")
    assert (
        Job.parse({}, [*drawn, "sampler.num_negatives=1001", "sampler.negatives=in_batch"], "job").sampler.num_negatives == 1001
    )


@pytest.mark.parametrize("text", ["\u0661\u0666\u0660\u0660", "1_0", "2014-03-0\u0661", "2" * 101])
def test_a_time_has_plain_digits(text):
    with pytest.raises(UsageError, match=r"job: data.test_from: expects a number or an ISO date such as 2014-03-01, got "):
        Job.parse({"data": {"time": "t", "split": "temporal", "test_from": text}}, [], "job")
