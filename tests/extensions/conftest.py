"""The examples of docs/extending.md as modules that Python finds, with a distribution whose entry points name them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
LONGEST = 40
"""Lines of an example."""


def examples() -> dict[str, str]:
    """File name -> text of each Python example of the page."""
    blocks = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return dict(blocks)


def entry_points() -> str:
    """The entry points of the page, as an installed distribution has them."""
    text = "".join(re.findall(r"^```ini\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
    return re.sub(r'\[project\.entry-points\."(.+?)"\]', r"[\1]", text).replace('"', "")


@pytest.fixture(scope="session")
def _folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    for name, text in examples().items():
        (folder / name).write_text(text, encoding="utf-8")
    installed = folder / "shop_extras-1.2.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-extras\nVersion: 1.2\n", encoding="utf-8")
    (installed / "entry_points.txt").write_text(entry_points(), encoding="utf-8")
    modules = [Path(name).stem for name in examples()]
    (installed / "top_level.txt").write_text("\n".join(modules), encoding="utf-8")
    return folder


@pytest.fixture
def extras(_folder, monkeypatch):
    """The folder of the examples, which Python finds in this test and its children alone."""
    monkeypatch.syspath_prepend(str(_folder))
    monkeypatch.setenv("PYTHONPATH", str(_folder))
    before = set(sys.modules)
    yield _folder
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(_folder) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.fixture
def module(extras, tmp_path, monkeypatch):
    """A function that makes a module of some text, and returns its name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text: str, name: str = "written") -> str:
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        sys.modules.pop(name, None)
        return name

    yield write
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)
