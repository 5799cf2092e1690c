"""`settings`, `models` and `report` as commands."""

from __future__ import annotations

import json

from gcnrec.config.reference import settings
from gcnrec.draft.models import MODELS


def test_settings_prints_each_key_of_each_section_with_default_values_and_meaning(gcnrec):
    code, out, _ = gcnrec("settings")
    text = " ".join(out.split())
    assert code == 0
    for setting in settings():
        assert f"{setting.key} = {setting.default} ({setting.values}) {setting.meaning}" in text, setting.name
    assert out.count("\n[") + out.startswith("[") == len({setting.section for setting in settings()})


def test_one_key_has_its_whole_text(gcnrec):
    code, out, _ = gcnrec("settings", "table.placement")
    assert code == 0 and settings("table.placement")[0].text in " ".join(out.split())
    assert [setting["key"] for setting in json.loads(gcnrec("settings", "loss.name", "--json")[1])["settings"]] == ["name"]


def test_an_unknown_key_is_one_sentence(gcnrec):
    assert gcnrec("settings", "loss.tempreature") == (
        2, "", "gcnrec: no section or key of a job is called 'loss.tempreature'; did you mean 'loss.temperature'?\n"
    )  # fmt: skip


def test_models_prints_a_line_for_each(gcnrec):
    code, out, _ = gcnrec("models")
    first = [line.split()[0] for line in out.splitlines() if line]
    assert code == 0 and all(first.count(advice.name) == 1 for advice in MODELS)
    assert [advice["name"] for advice in json.loads(gcnrec("models", "--json")[1])["models"]] == [
        advice.name for advice in MODELS
    ]


def test_a_report_needs_a_run(gcnrec):
    code, out, err = gcnrec("report", "nowhere")
    assert (code, out) == (3, "") and "nowhere is not a run folder" in err
