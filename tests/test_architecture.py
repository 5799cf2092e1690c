"""The import rules, read from the source: a module imports from lower rows only, and some packages have one home."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gcnrec"

# A module may import modules of a lower row, and those of its own row. The lowest row is a chain, left to right.
ROWS = [
    ["cli", "__main__"],
    ["bench", "pipeline", "progress", "bars", "jsonlog", "show"],
    [
        "train",
        "epochs",
        "finish",
        "mixture_choice",
        "earlier",
        "check",
        "idle",
        "baselines",
        "open_keys",
        "defaults",
        "report",
        "report_charts",
        "facts",
        "charts",
        "compare",
        "doctor",
        "findings",
        "sweep",
        "sweep_page",
        "grid",
        "trials",
        "paired",
    ],
    [
        "evaluate",
        "export_choice",
        "bounds",
        "baseline_costs",
        "fit_validation",
        "cold",
        "recommend",
        "fold_in",
        "artifacts",
        "lineage",
        "events",
        "slot_files",
        "tracking",
        "state",
    ],
    ["loaders", "mixtures", "testing", "start", "step", "memory", "explore", "placement", "locks", "signals", "checkpoints"],
    ["models", "losses", "guards", "sparsity", "dynamic", "policy", "exchange", "row_counts", "support"],
    ["nmf", "metrics", "tilt"],
    ["sampler", "blocks", "walk_blocks", "table", "slots", "optim", "rows", "staged", "hotrows", "pipelined"],
    ["device"],
    ["ops", "cuda"],
]
CHAIN = ["graph", "interactions", "random", "config", "toml", "limits", "errors", "machine", "queues", "__init__"]

# Where an outside package may be imported, as prefixes of `gcnrec.` module names.
HOMES = {
    "cupy": ["cuda"],
    "duckdb": ["loaders.conditions", "loaders.parquet", "loaders.synthetic"],
    "torch_geometric": ["models", "loaders.pyg", "bench"],
    "dgl": ["loaders.dgl", "bench"],
    "implicit": ["bench"],
    "faiss": ["bench", "loaders.export"],
    "recbole": ["bench"],
    "lenskit": ["bench"],
    "polars": ["bench"],
    "typer": ["cli"],
    "rich": ["bars"],
    "jinja2": ["report", "sweep_page"],
    "matplotlib": ["charts"],
    "mlflow": ["tracking"],
}
# Absent from a plain install, or slow to import: these modules are themselves imported only when wanted.
ONLY_INSIDE_FUNCTIONS = ["torch_geometric", "dgl", "implicit", "faiss", "recbole", "lenskit", "polars", "jinja2", "matplotlib"]
ONLY_INSIDE_FUNCTIONS += ["mlflow"]
EXEMPT = ["loaders.pyg", "loaders.dgl"]
MAY_PRINT = ["cli", "progress", "jsonlog"]


def sources() -> dict[str, str]:
    """Module name without `gcnrec.` -> source, over the package and the two linked folders."""
    files = [*PACKAGE.rglob("*.py"), *((PACKAGE / "loaders").rglob("*.py")), *((PACKAGE / "cuda").rglob("*.py"))]
    return {module_name(path): path.read_text(encoding="utf-8") for path in files}


def module_name(path: Path) -> str:
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if len(parts) > 1 and parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def imports(source: str) -> list[tuple[str, bool, int]]:
    """(module, at top level and executed, line) of every import statement; `if TYPE_CHECKING` blocks do not count."""
    found: list[tuple[str, bool, int]] = []

    def visit(node: ast.AST, top: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                found.extend((alias.name, top, child.lineno) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                found.extend((f"{base}.{alias.name}" if base == "gcnrec" else base, top, child.lineno) for alias in child.names)
            visit(child, top and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    visit(ast.parse(source), True)
    return found


def row_of(module: str) -> int | None:
    head = module.split(".")[0]
    for height, row in enumerate(reversed(ROWS)):
        if head in row:
            return height + 1
    return 0 if head in CHAIN else None


def allowed(importer: str, imported: str) -> bool:
    heads = importer.split(".")[0], imported.split(".")[0]
    above, below = row_of(importer), row_of(imported)
    if above is None or below is None:
        return False
    if {*heads} == {"ops", "cuda"} or (heads[1] == "cuda" and heads[0] not in ("device", "cuda")):
        return False
    if above == below == 0:
        return CHAIN.index(heads[0]) <= CHAIN.index(heads[1])
    return below <= above


def problems(modules: dict[str, str]) -> list[str]:
    """Every breach of the rules, as sentences."""
    found = []
    for module, source in modules.items():
        if row_of(module) is None:
            found.append(f"{module} has no row in the table of this test")
        for name, top, line in imports(source):
            where = f"{module}:{line}"
            head = name.split(".")[0]
            if head == "gcnrec":
                target = name.partition(".")[2] or "__init__"
                target = "__init__" if target == "__version__" else target
                if module != "__init__" and not allowed(module, target):
                    found.append(f"{where} must not import gcnrec.{target}")
                if target.startswith("cuda") and module == "device" and top:
                    found.append(f"{where} must import gcnrec.cuda inside one function")
            elif head in HOMES:
                if not any(module == home or module.startswith(home + ".") for home in HOMES[head]):
                    found.append(f"{where} must not import {head}")
                if top and head in ONLY_INSIDE_FUNCTIONS and module not in EXEMPT:
                    found.append(f"{where} must import {head} inside a function")
    return found


def test_import_rules():
    assert problems(sources()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("graph", "from gcnrec.ops.propagate import propagate"),
        ("errors", "import gcnrec.config"),
        ("ops.update", "from gcnrec import cuda"),
        ("train", "from gcnrec.cuda import gather"),
        ("device", "import gcnrec.cuda.gather"),
        ("loaders.schema", "import duckdb"),
        ("models.lightgcn", "import torch_geometric"),
        ("train", "def f():\n    import implicit"),
        ("loaders.sources", "def f():\n    from gcnrec.train import train"),
        ("bench.propagate", "import dgl"),
        ("brand_new", ""),
    ],
)
def test_negative_control(module, source):
    assert len(problems({module: source})) == 1


def test_positive_control():
    assert problems({"device": "def ops_for():\n    from gcnrec.cuda import gather"}) == []
    assert problems({"bench.propagate": "def f():\n    import dgl\n    from gcnrec.train import train"}) == []
    assert problems({"errors": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from gcnrec.train import Run"}) == []


def calls(source: str) -> list[tuple[str, int]]:
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [(ast.unparse(node.func), node.lineno) for node in nodes]


def test_only_the_command_line_prints():
    printing = {"print", "sys.stdout.write", "sys.stderr.write", "logging.basicConfig", "warnings.warn"}
    modules = sources()
    found = [(m, line) for m in modules if m not in MAY_PRINT for name, line in calls(modules[m]) if name in printing]
    assert found == []
    assert ("print", 1) in calls("print(1)")


def test_no_asserts_and_no_star_imports():
    for module, source in sources().items():
        for node in ast.walk(ast.parse(source)):
            # `assert x is not None` tells the type checker what holds by construction; any other check must raise an error.
            checks = isinstance(node, ast.Assert) and not ast.unparse(node.test).endswith(" is not None")
            assert not checks, f"{module}:{node.lineno} must raise an exception of gcnrec.errors"
            assert not (isinstance(node, ast.ImportFrom) and node.names[0].name == "*"), f"{module}:{node.lineno}"


def test_folders_that_must_stay_namespaces():
    """NVIDIA's own packages are the namespace `cuda`: an __init__.py in ours, at the root, would hide them."""
    for folder in ("cuda", "loaders", "tests", "jobs", "datasets"):
        assert not list((ROOT / folder).rglob("__init__.py")), folder
    for name in ("bindings", "core", "pathfinder"):
        assert not (ROOT / "cuda" / name).exists() and not (ROOT / "cuda" / f"{name}.py").exists()


def test_links():
    for name in ("loaders", "cuda"):
        assert (PACKAGE / name).is_symlink() and (PACKAGE / name).readlink() == Path("..") / name
        assert (PACKAGE / name).is_dir()


ENVIRONMENT_IS_SHUT = """
import os, sys

class Shut:
    def __getattr__(self, name):
        raise SystemExit("the environment was read")
    __getitem__ = __contains__ = __iter__ = __getattr__

os.environ = Shut()
import gcnrec, gcnrec.errors
"""
IS_LIGHT = """
import sys, gcnrec.cli
sys.exit(", ".join({"torch", "numba", "numpy", "duckdb", "pyarrow", "matplotlib", "pydantic"} & set(sys.modules)) or 0)
"""


@pytest.mark.parametrize("program", [ENVIRONMENT_IS_SHUT, IS_LIGHT])
def test_importing_is_light_silent_and_reads_no_environment(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_only_programs_touch_the_environment():
    """The command line sets how thread pools wait, before any of them starts; benches set up their peers; what a GPU is tuned to
    lies in the user's cache folder, which the environment names; a run's lineage says what it began under."""
    for module, source in sources().items():
        names = {ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
        may = module in ("cli", "cuda.tuning", "lineage") or module.startswith("bench.")
        assert may or not names & {"os.environ", "os.getenv"}, module
