"""The reference of all keys is what the typed sections accept: keys, defaults, bounds, and a meaning for each."""

from __future__ import annotations

import re
import tomllib

import pytest
from pydantic import ValidationError

from gcnrec.config import Job
from gcnrec.config.reference import sections, settings
from gcnrec.errors import UsageError

EVERY = settings()
RANGE = re.compile(r"(whole )?number, (above )?(-?[\d.,e+-]+) to (below )?([\d.,e+]+)(?=,? or |$)")


def accepted(setting, value):
    """Whether the section takes `value` for the key, whatever other keys it needs."""
    try:
        Job.model_fields[setting.section].annotation.model_validate({setting.key: value})
    except ValidationError as problem:
        return all(error["loc"][:1] != (setting.key,) for error in problem.errors())
    return True


def ranges():
    for setting in EVERY:
        found = RANGE.search(setting.values)
        if found and "of:" not in setting.values:
            yield pytest.param(setting, *found.groups(), id=setting.name)


def test_it_has_each_key_of_each_section_once():
    keys = [(name, part.alias or key) for name, field in Job.model_fields.items()
            for key, part in field.annotation.model_fields.items()]  # fmt: skip
    assert [(setting.section, setting.key) for setting in EVERY] == keys
    assert list(sections()) == list(Job.model_fields) and all(sections().values())


@pytest.mark.parametrize("setting", EVERY, ids=lambda setting: setting.name)
def test_each_key_has_values_a_default_and_a_meaning_of_one_line(setting):
    assert setting.values and "None" not in setting.values and "Annotated" not in setting.values
    assert len(setting.meaning) > 10 and setting.meaning.endswith(".") and "\n" not in setting.text
    assert setting.text.startswith(setting.meaning)
    if setting.default == "not set":
        section = Job.model_fields[setting.section].annotation
        field = next(part for key, part in section.model_fields.items() if (part.alias or key) == setting.key)
        assert field.default in (None, ())
    else:
        assert accepted(setting, tomllib.loads(f"value = {setting.default}")["value"])


@pytest.mark.parametrize(("setting", "whole", "above", "low", "below", "high"), list(ranges()))
def test_the_ends_of_a_range_are_where_the_section_ends(setting, whole, above, low, below, high):
    kind = int if whole else float
    low, high = kind(low.replace(",", "")), kind(high.replace(",", ""))
    step = 1 if whole else 1e-9
    inside = [low + step if above else low, high - step if below else high]
    outside = [low if above else low - step, high if below else high + (1 if whole else max(high * 1e-9, step))]
    if "parts" not in setting.key:  # powers of two alone
        assert all(accepted(setting, value) for value in inside), inside
    assert not any(accepted(setting, value) for value in outside), outside


@pytest.mark.parametrize(
    "setting",
    [setting for setting in EVERY if setting.values.startswith(('"', "true", "false"))],
    ids=lambda setting: setting.name,
)
def test_named_values_are_taken_and_others_are_not(setting):
    named = re.match(r"[^;]*?(?=, or list|, or number|, or class|$)", setting.values)[0]
    values = tomllib.loads(f"value = [{named}]")["value"]
    assert values and all(accepted(setting, value) for value in values)
    assert not accepted(setting, "none of these")


def test_a_key_a_section_and_a_bare_key_are_found():
    assert [setting.name for setting in settings("loss.logq")] == ["loss.logq"]
    assert [setting.name for setting in settings("seed")] == ["data.seed", "train.seed"]
    assert {setting.section for setting in settings("table")} == {"table"}
    assert settings("mixture.with")[0].values.startswith('"auto", or list of any number of: "linkprop"')


@pytest.mark.parametrize(
    ("key", "hint"), [("laye", "'layers'"), ("loss.tempreature", "'loss.temperature'"), ("zzz", "sections: data, ")]
)
def test_an_unknown_key_names_the_nearest(key, hint):
    with pytest.raises(UsageError, match=rf"no section or key of a job is called '{key}'; .*{re.escape(hint)}"):
        settings(key)


def test_a_meaning_is_the_first_sentence_of_the_text():
    fraction = settings("sampler.fraction")[0]
    assert fraction.meaning.endswith("(RS2: Okanovic et al. 2024).")
    placement = settings("table.placement")[0]
    assert placement.meaning == "Where rows, state and features lie." and "`disk`" in placement.text
