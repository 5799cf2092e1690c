"""The model card says what the page says, goes anywhere, and is Markdown whatever a run's files hold."""

from __future__ import annotations

import json
import re

import pytest

from gcnrec.config import Job
from gcnrec.config.toml import to_toml
from gcnrec.reports.run_report import write_run_page

EVENTS = [
    {"event": "baseline", "name": "pop|ularity", "metrics": {"recall@20": 0.0416}},
    {"event": "warning", "kind": "leak", "text": "the run /home/someone/runs/old was trained on *validation*\n# pairs"},
]
METRICS = {
    "split": "test", "seen": "all", "recall@20": 0.18651, "gini@20": 0.25, "intervals": {"recall@20": [0.18, 0.19]},
    "deciles": [{"decile": n, "recall@20": value} for n, value in ((1, 0.3), (2, None), (3, 0.1))],
}  # fmt: skip
LINEAGE = {
    "format": 1, "created": "2026-01-02T03:04:05+00:00", "command": "gcnrec run /home/someone/job.toml",
    "working_directory": "/home/someone", "data": {"name": "<b>shop</b>", "folder": "/home/someone/data", "digest": "abc"},
    "machine": {"cpu": "a CPU", "system": "Linux", "python": "3.11", "torch": "2.9"}, "threads": 4, "device": "cpu",
}  # fmt: skip


@pytest.fixture
def card(tmp_path, charts_take_no_time):
    """Writes the card of a run with these sections and files, and returns it."""

    def write(sections=None, metrics=METRICS):
        (tmp_path / "job.toml").write_text(to_toml(Job.parse(sections or {}, [], "here")))
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
        (tmp_path / "lineage.json").write_text(json.dumps(LINEAGE))
        (tmp_path / "memory.json").write_text(json.dumps({"served_bytes": 2048}))
        if metrics:
            (tmp_path / "metrics.json").write_text(json.dumps(metrics))
        write_run_page(tmp_path)
        return (tmp_path / "MODEL_CARD.md").read_text(encoding="utf-8")

    return write


def test_a_card_has_the_figures_of_the_run(card):
    text = card()
    titles = ["Model", "Intended use", "Training data", "Evaluation", "Limits", "Memory", "Repeat"]
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == titles
    assert text.startswith("---\nlibrary_name: gcnrec\ntags: [recommendation, lightgcn]\n---\n")
    assert "| recall@20 | 0.1865 | 0.1800 to 0.1900 | 0.0416 |" in text and "| digest | abc |" in text
    assert "`recall@20` is 0.3000 for held-out pairs of the most popular tenth of the items, and 0.1000 for the" in text
    assert "Exposure: gini@20 is 0.250" in text and "items of train and validation are left out of lists" in text
    assert "Trained on a CPU, Linux, device `cpu`, 4 threads; python 3.11, torch 2.9." in text and "2.0 KiB" in text


def test_texts_of_others_stay_texts(card):
    text = card()
    assert "| metric | value | interval | pop\\|ularity |" in text
    assert "* The run old was trained on \\*validation\\* \\# pairs." in text
    assert "<b>" not in text.replace("\\<b\\>", "")


def test_a_card_holds_no_folder_of_the_machine(card):
    assert "someone" not in card()


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"model": {"name": "popularity"}}, "`popularity`, a closed form without training steps."),
        ({"model": {"name": "graphsage"}}, "are embedded by their features, users by their interactions."),
        ({"train": {"refit": "train+valid"}}, "the model was trained again on train and validation together."),
        ({"train": {"seed": 7}}, "seed 7;"),
    ],
)
def test_a_card_says_what_the_job_says(card, sections, sentence):
    assert sentence in card(sections)


def test_a_run_that_was_never_measured(card):
    text = card(metrics=None)
    assert "Not measured; `gcnrec evaluate` measures it" in text and "| metric |" not in text
