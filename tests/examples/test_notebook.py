"""jobs/examples/first_run.ipynb: its cells run in order, without Jupyter."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pyarrow.parquet as pq

NOTEBOOK = Path(__file__).parents[2] / "jobs" / "examples" / "first_run.ipynb"


def cells():
    """The source of each code cell, and the notebook as JSON."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"], notebook


def executed(sources):
    """Run cells in one namespace; returns it, and the value of each cell's last expression as Jupyter shows it."""
    names, values = {}, []
    for number, source in enumerate(sources):
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"cell {number}", "exec"), names)
        values.append(eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names) if last else None)
    return names, values


def test_the_cells_run_from_an_empty_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sources, _ = cells()
    names, values = executed(sources)
    run, (lists, alike, summary) = names["run"], values[-3:]
    # 20 of 80 items at random would give 0.25: each customer likes 40 items, and most often the same few of these.
    assert names["metrics"]["recall@20"] > 0.5
    assert any(value is run for value in values) and run._repr_html_().count("<svg") == 2
    assert [row["rank"] for row in lists] == [1, 2, 3, 4, 5] and [row["rank"] for row in alike] == [1, 2, 3]
    assert pq.read_table("lists.parquet").num_rows == summary.rows
    assert "epoch" in capsys.readouterr().err


def test_the_file_holds_no_outputs_and_each_cell_has_an_id():
    _, notebook = cells()
    assert notebook["nbformat"] == 4 and len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [(cell["outputs"], cell["execution_count"]) for cell in code] == [([], None)] * len(code)
