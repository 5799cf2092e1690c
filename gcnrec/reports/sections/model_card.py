"""`MODEL_CARD.md`: what a run is, on what it was trained, how good it is and where it should not be used.

The sections follow Mitchell et al. 2019 ("Model cards for model reporting"), as far as files of a run know them. The card
goes where the model goes: it holds no folder of the machine, no command and no id of a user.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from gcnrec.reports.sections.titles import shown_text
from gcnrec.runs.contents import RunContents

_FOLDERS = re.compile(r"(?<![\w.:/-])/(?:[^\s/'\"]+/)+")
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#])")
_LONG = 400
_SEEN = {
    "all": "items of train and validation are left out of lists",
    "target": "items that a user took in train or validation are left out of lists, items met otherwise are not",
    "none": "nothing is left out of lists",
}


def model_card(contents: RunContents, page: dict[str, Any]) -> str:
    """The card in Markdown. `page` is the content of the run's page: its figures are said in the same words."""
    return "\n".join(_lines(contents, page)) + "\n"


def _lines(contents: RunContents, page: dict[str, Any]) -> Iterator[str]:
    """The card, line by line. `page`: what the page of the run shows."""
    model = contents.job.model
    yield from ("---", "library_name: gcnrec", f"tags: [recommendation, {model.name}]", "---")
    yield from (f"# Model card: {_text(page['name'])}", "", _text(page["subtitle"]), "", "## Model", "")
    yield from (f"* {line}" for line in _details(contents))
    yield from ("", "## Intended use", "")
    yield from (f"* {line}" for line in _uses(contents))
    yield from ("", "## Training data", "")
    yield from _table(("", ""), [*page["data"].get("facts", ()), ("digest", contents.lineage.data.digest or "unknown")])
    yield from ("", "gcnrec does not know the licence of the data.", "", "## Evaluation", "")
    yield from _evaluation(contents, page)
    yield from ("", "## Limits", "")
    yield from (f"* {_text(warning)}" for warning in page["warnings"])
    yield from (f"* {line}" for line in _limits(contents))
    if page["memory_words"]:
        yield from ("", "## Memory", "")
        yield from (f"* {_text(sentence)}" for sentence in page["memory_words"])
    yield from (
        "",
        "## Repeat",
        "",
        "`gcnrec run job.toml` with the `job.toml` of the run repeats it on data of the digest above.",
    )
    yield "Equal bits need equal threads, device, versions and environment, which `lineage.json` names."


def _details(contents: RunContents) -> Iterator[str]:
    """What was trained, how and on what machine."""
    job, lineage = contents.job, contents.lineage
    if job.model.closed_form:
        yield f"`{job.model.name}`, a closed form without training steps."
    else:
        layers = f"{job.model.layers} layer{'s' * (job.model.layers != 1)}"
        yield f"`{job.model.name}`: {layers}, width {job.model.width}, propagation `{job.model.propagation}`."
        yield f"Loss `{job.loss.name}`, seed {job.train.seed}; `job.toml` of the run has all settings."
    mixture = contents.mixture
    if mixture and mixture.partners:
        yield f"The score is mixed with closed forms: {_text(mixture.name)}."
    if job.train.refit:
        yield "After validation had chosen, the model was trained again on train and validation together."
    machine = ", ".join(_text(f"{lineage.machine[name]}") for name in ("cpu", "system") if lineage.machine.get(name))
    versions = ", ".join(f"{name} {lineage.machine[name]}" for name in ("python", "torch", "numba") if lineage.machine.get(name))
    if machine:
        yield f"Trained on {machine}, device `{lineage.device}`, {lineage.threads} threads; {_text(versions)}."


def _uses(contents: RunContents) -> Iterator[str]:
    model = contents.job.model
    yield "It ranks the items of this data for its users, in offline jobs that write lists. It was judged on this data alone."
    if model.reads_features:
        yield "Items that training has not seen are embedded by their features, users by their interactions."
    elif not model.closed_form:
        yield "Users that training has not seen are embedded by their interactions. Items that it has not seen get no embedding."
    else:
        yield "Users and items that training has not seen get no list of their own."
    yield "Embeddings and lists follow from what single users did: handle them like the interactions themselves."


def _evaluation(contents: RunContents, page: dict[str, Any]) -> Iterator[str]:
    if not page["metrics"]:
        yield f"Not measured; `gcnrec evaluate` measures it, on {page['split']}."
        return
    seen = contents.metrics.seen or contents.job.evaluate.seen or "all"
    yield f"Split: {page['split']}. Each user with held-out items gets a list of all items; {_SEEN.get(seen, _text(seen))}."
    yield "Nothing was chosen by test. Intervals are a 95 % bootstrap over users. `docs/ranking-and-metrics.md` defines metrics."
    yield ""
    names = page["baseline_names"]
    rows = [(row["name"], row["value"], row["interval"], *row["baselines"]) for row in page["metrics"]]
    yield from _table(("metric", "value", "interval", *names), rows)


def _limits(contents: RunContents) -> Iterator[str]:
    """Where the model is weak, as far as it was measured."""
    key = contents.headline
    deciles = [each for each in contents.metrics.deciles if each.get(key) is not None]
    if len(deciles) > 1:
        first, last = deciles[0], deciles[-1]
        yield (
            f"`{key}` is {first[key]:.4f} for held-out pairs of the most popular tenth of the items, and {last[key]:.4f} for the "
            f"least popular tenth with held-out pairs."
        )
    gini = next((f"{name} is {value:.3f}" for name, value in contents.metrics.values.items() if name.startswith("gini@")), "")
    if gini:
        yield f"Exposure: {gini}; 0 would show each item equally often, 1 a single one."
    yield "Interactions show what users met and took, not what they would have liked: popular items are over-represented."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(map(_text, head))} |"
    yield "|" + "---|" * len(head)
    yield from (f"| {' | '.join(map(_text, row))} |" for row in rows)


def _text(text: str) -> str:
    """A text that Markdown shows as it is, on one line, without folders of the machine."""
    return _SPECIAL.sub(r"\\\1", shown_text(_FOLDERS.sub("", str(text)), _LONG))
