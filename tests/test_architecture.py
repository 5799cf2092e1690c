"""The rooms of the package, read from the source: a room imports lower rooms only, its files form no circle, no room is crowded,
some outside packages have one home. Functions are short and take few parameters."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gcnrec"

# From the ground up: a room, which is a folder or a single file, imports rooms of lower lines only.
LINES = [
    ["errors", "ids", "random", "queues", "rows", "version"],
    ["graph", "interactions", "system"],
    ["extensions", "storage"],
    ["config", "integrity", "ops", "cuda"],
    ["device", "workers"],
    ["tables"],
    ["sampling", "sparsity"],
    ["models", "loaders"],
    ["ranking"],
    ["closed_forms"],
    ["runs"],
    ["steps"],
    ["training"],
    ["results", "bench", "testing", "draft"],
    ["reports"],
    ["api", "console", "pipeline", "sweep"],
    ["tuning"],
    ["commands"],
    ["cli"],
    ["__init__", "__main__"],
]
HEIGHTS = {room: height for height, line in enumerate(LINES) for room in line}
MOST_FILES = 13
"""Python files of a folder, its __init__ apart."""
LINKS = {("gcnrec", "loaders"), ("gcnrec", "cuda")}
CROWDED = {
    "gcnrec/ops": 25, "cuda": 25, "tests/cuda": 25, "tests/ops": 25, "gcnrec/bench": 18,
}  # fmt: skip
"""Folders that may hold more: a kernel and its test lie beside all others, a bench too."""
MOST_PARAMETERS = 7
"""Of a function, without self; new functions have at most 6. Commands and compiled functions have as many as they need."""
MOST_LINES = 50
"""Of a function, from its name to its end."""
EXEMPT_PARAMETERS = {
    "gcnrec/api/judging.py evaluate": "the public call: each option is a parameter of its own",
    "gcnrec/api/lists.py recommend": "the public call: each option is a keyword of its own",
    "gcnrec/api/lists.py score": "the public call: each option is a keyword of its own",
    "gcnrec/api/lists.py similar": "the public call: each option is a keyword of its own",
    "gcnrec/results/evaluate.py evaluate_run": "what the public call does: each option is a parameter of its own",
}
EXEMPT_LINES: dict[str, str] = {}
MOST_EXEMPT = 5
"""Entries of each table; an entry whose function keeps the rule is an error, too."""
COMMANDS = "gcnrec/commands/"
TAKE_A_JOB = [
    "pipeline", "reports.trials", "runs.contents", "runs.folder", "training.build", "training.check", "training.open_keys",
    "training.plan", "training.train", "training.work",
]  # fmt: skip
"""Files with `Job` in a signature or a field, at most ten; other functions take the sections, or what was decided from them."""
DECIDE = ["training.plan", "training.build"]
"""Readers of a job's sections about the table and its optimizer: they decide once, and hand the decision on."""
DECIDED = re.compile(r"(\.|\b)job\.(table|sparsity|optimizer)$|\btrain\.device$")

# Where an outside package may be imported, as prefixes of `gcnrec.` module names.
HOMES = {
    "cupy": ["cuda"],
    "duckdb": ["loaders.conditions", "loaders.parquet", "loaders.synthetic"],
    "torch_geometric": ["models", "loaders.pyg", "bench"],
    "dgl": ["loaders.dgl", "bench"],
    "implicit": ["bench"],
    "faiss": ["bench", "results.export"],
    "recbole": ["bench"],
    "lenskit": ["bench"],
    "polars": ["bench"],
    "torchrec": ["bench.contenders.torchrec_rows"],
    "typer": ["console.arguments", "commands", "cli"],
    "rich": ["reports.progress_bar"],
    "jinja2": ["reports.page"],
    "matplotlib": ["reports.charts"],
    "mlflow": ["runs.tracking"],
    "optuna": ["tuning.propose"],
    "fsspec": ["storage.remote.store"],
    "deltalake": ["loaders.files.delta"],
    "onnx": ["results.exports.sage_onnx"],
    "usearch": ["results.exports.usearch_index"],
}
# Absent from a plain install, or slow to import: these modules are themselves imported only when wanted.
ONLY_INSIDE_FUNCTIONS = ["torch_geometric", "dgl", "implicit", "faiss", "recbole", "lenskit", "polars", "jinja2", "matplotlib"]
ONLY_INSIDE_FUNCTIONS += ["mlflow", "torchrec", "optuna", "onnx", "usearch", "deltalake", "fsspec"]
EXEMPT = ["loaders.pyg", "loaders.dgl"]
MAY_PRINT = ["cli", "commands.machine", "commands.making", "console.output", "reports.progress"]


def sources() -> dict[str, str]:
    """Module name without `gcnrec.` -> source, over the package and the two linked folders."""
    files = [*PACKAGE.rglob("*.py"), *((PACKAGE / "loaders").rglob("*.py")), *((PACKAGE / "cuda").rglob("*.py"))]
    return {module_name(path): path.read_text(encoding="utf-8") for path in files}


def module_name(path: Path) -> str:
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if len(parts) > 1 and parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def imports(source: str, known: Iterable[str] = ()) -> list[tuple[str, bool, int]]:
    """(module, executed at top level, line) of every import statement; `from room import file` counts as the file if `known`."""
    found: list[tuple[str, bool, int]] = []

    def visit(node: ast.AST, top: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, top, child.lineno) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                names = [f"{base}.{alias.name}" for alias in child.names]
                found.extend((name if name in known or base == "gcnrec" else base, top, child.lineno) for name in names)
            for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            visit(child, top and not for_types and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    visit(ast.parse(source), True)
    return found


def room_of(module: str) -> str:
    return module.split(".")[0]


def may_import(importer: str, imported: str) -> bool:
    above, below = room_of(importer), room_of(imported)
    if below == "cuda" and above not in ("device", "cuda"):
        return False
    return above == below or HEIGHTS[below] < HEIGHTS[above] or (below, above) == ("cli", "__main__")


def problems(modules: dict[str, str]) -> list[str]:
    """Every breach of the rules, as sentences; imports for types count like others."""
    found = []
    known = {f"gcnrec.{module}" for module in modules}
    for module, source in modules.items():
        if room_of(module) not in HEIGHTS:
            found.append(f"{module} lies in no room of this test")
            continue
        for name, top, line in imports(source, known):
            where = f"{module}:{line}"
            head = name.split(".")[0]
            if head == "gcnrec":
                target = name.partition(".")[2] or "__init__"
                if room_of(target) not in HEIGHTS or not may_import(module, target):
                    found.append(f"{where} must not import gcnrec.{target}")
                if target.startswith("cuda") and module == "device" and top:
                    found.append(f"{where} must import gcnrec.cuda inside one function")
            elif head in HOMES:
                if not any(module == home or module.startswith(home + ".") for home in HOMES[head]):
                    found.append(f"{where} must not import {head}")
                if top and head in ONLY_INSIDE_FUNCTIONS and module not in EXEMPT:
                    found.append(f"{where} must import {head} inside a function")
    return found


def circles(modules: dict[str, str]) -> list[list[str]]:
    """Files that reach each other by imports, wherever in a file and for whatever purpose; a package's own __init__ apart."""
    known = {f"gcnrec.{module}" for module in modules}
    targets = {
        module: {name.removeprefix("gcnrec.") for name, _, _ in imports(source, known) if name in known} - {module}
        for module, source in modules.items()
        if module != "__init__"
    }

    def reached(module: str) -> set[str]:
        seen: set[str] = set()
        ahead = [module]
        while ahead:
            fresh = targets.get(ahead.pop(), set()) - seen
            seen |= fresh
            ahead += fresh
        return seen

    within = {module: {other for other in reached(module) if module in reached(other)} for module in targets}
    return sorted({tuple(sorted(group)) for group in within.values() if len(group) > 1})


def crowds() -> Iterator[str]:
    """Folders with more Python files than one look takes in."""
    tops = ("gcnrec", "loaders", "cuda", "jobs", "tests")
    files = [path.relative_to(ROOT) for top in tops for path in (ROOT / top).rglob("*.py") if path.name != "__init__.py"]
    counts = Counter(str(file.parent) for file in files if file.parts[:2] not in LINKS)
    for folder, count in counts.items():
        most = CROWDED.get(folder, MOST_FILES)
        if count > most:
            yield f"{folder} has {count} Python files, at most {most} may lie in one folder"


def functions(source: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function with its name below classes and functions: `Table.read`."""

    def visit(node: ast.AST, outer: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            name = f"{outer}{child.name}" if named else outer
            if named and not isinstance(child, ast.ClassDef):
                yield name, child
            yield from visit(child, f"{name}." if named else outer)

    return visit(ast.parse(source), "")


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = function.args
    names = [each.arg for each in (*given.posonlyargs, *given.args)]
    stars = (given.vararg is not None) + (given.kwarg is not None)
    return len(names) - (names[:1] in (["self"], ["cls"])) + len(given.kwonlyargs) + stars


def is_compiled(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """numba compiles it, as a kernel or as an intrinsic, whose first argument is numba's `typing`."""
    decorators = " ".join(map(ast.unparse, function.decorator_list))
    return "njit" in decorators or "intrinsic" in decorators or [each.arg for each in function.args.args[:1]] == ["typing"]


def long_functions(sources: dict[str, str]) -> tuple[dict[str, int], dict[str, int]]:
    """Functions with too many parameters, and with too many lines, by path and name."""
    wide, long = {}, {}
    for path, source in sources.items():
        for name, function in functions(source):
            lines = (function.end_lineno or 0) - function.lineno + 1
            if lines > MOST_LINES:
                long[f"{path} {name}"] = lines
            if parameters(function) > MOST_PARAMETERS and not path.startswith(COMMANDS) and not is_compiled(function):
                wide[f"{path} {name}"] = parameters(function)
    return wide, long


def test_functions_are_short_and_take_few_parameters():
    tops = ("gcnrec", "loaders", "cuda", "jobs")
    files = [path.relative_to(ROOT) for top in tops for path in (ROOT / top).rglob("*.py")]
    wide, long = long_functions({str(f): (ROOT / f).read_text(encoding="utf-8") for f in files if f.parts[:2] not in LINKS})
    assert set(wide) == set(EXEMPT_PARAMETERS), wide
    assert set(long) == set(EXEMPT_LINES), long
    assert max(len(EXEMPT_PARAMETERS), len(EXEMPT_LINES)) <= MOST_EXEMPT


def test_long_functions_are_found():
    wide = "def f(a, b, c, d, e, f, g, *, h): pass"
    method = "class T:\n    def f(self, a, b, c, d, e, f, g): pass\n    def g(self, a, b, c, d, e, f, g, **h): pass"
    kernel = f"@numba.njit(cache=True)\n{wide}"
    long = "def f():\n" + "    pass\n" * MOST_LINES
    found = long_functions({"a.py": wide, "b.py": method, "c.py": kernel, "d.py": long, f"{COMMANDS}a.py": wide})
    assert found == ({"a.py f": 8, "b.py T.g": 8}, {"d.py f": MOST_LINES + 1})


def annotations(source: str) -> Iterator[str]:
    """Types of parameters, of results and of fields."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.arg, ast.AnnAssign)) and node.annotation is not None:
            yield ast.unparse(node.annotation)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.returns is not None:
            yield ast.unparse(node.returns)


def reads_what_is_decided(source: str) -> list[str]:
    """Attributes of the sections that `DECIDE` alone may read, in an expression."""
    nodes = (ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute))
    return [name for name in nodes if DECIDED.search(name)]


def test_few_files_take_a_whole_job():
    modules = {module: source for module, source in sources().items() if not module.startswith("config")}
    takers = [module for module, source in modules.items() if any(re.search(r"\bJob\b", each) for each in annotations(source))]
    assert sorted(takers) == sorted(TAKE_A_JOB) and len(TAKE_A_JOB) <= 10
    # A bench makes a job of its own, and reads what it has just written.
    others = {m: s for m, s in modules.items() if m not in DECIDE and not m.startswith("bench.")}
    assert {module: names for module, source in others.items() if (names := reads_what_is_decided(source))} == {}


def test_readers_of_decided_sections_are_found():
    assert {*reads_what_is_decided("work.job.table.budget, job.train.device")} == {"work.job.table", "job.train.device"}
    assert reads_what_is_decided("settings.optimizer, job.model.width, plan.table_bytes") == []
    assert {*annotations("def f(a: Job) -> Plan: pass\nclass C:\n    b: int")} == {"Job", "Plan", "int"}


def test_import_rules():
    assert problems(sources()) == []


def test_files_form_no_circle():
    assert circles(sources()) == []
    assert circles({"tables.rows": "import gcnrec.tables.dense", "tables.dense": "from gcnrec.tables import rows"}) == [
        ("tables.dense", "tables.rows")
    ]


def test_no_folder_is_crowded():
    assert list(crowds()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("graph", "from gcnrec.ops.propagate import propagate"),
        ("errors", "import gcnrec.config"),
        ("ops.update", "from gcnrec import cuda"),
        ("training.train", "from gcnrec.cuda import gather"),
        ("device", "import gcnrec.cuda.gather"),
        ("loaders.schema", "import duckdb"),
        ("models.lightgcn", "import torch_geometric"),
        ("training.train", "def f():\n    import implicit"),
        ("loaders.sources", "def f():\n    from gcnrec.training.train import train"),
        ("bench.propagate", "import dgl"),
        ("sampling.sampler", "from gcnrec.sparsity.policy import Policy"),
        ("errors", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from gcnrec.runs.folder import Run"),
        ("brand_new", ""),
    ],
)
def test_negative_control(module, source):
    assert len(problems({module: source})) == 1


def test_positive_control():
    assert problems({"device": "def ops_for():\n    from gcnrec.cuda import gather"}) == []
    assert problems({"bench.propagate": "def f():\n    import dgl\n    from gcnrec.training.train import train"}) == []


def uses_of(package: str, source: str) -> list[int]:
    """Lines that import `package` (`torch.distributed`), or reach it by its name."""
    tree = ast.parse(source)
    names = [(f"{base}.{alias.name}", node.lineno) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
             for base in [node.module] for alias in node.names]  # fmt: skip
    names += [(name, line) for name, _, line in imports(source)]
    names += [(ast.unparse(node), node.lineno) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return sorted({line for name, line in names if name == package or name.startswith(f"{package}.")})


def test_process_groups_have_one_home():
    """The peer is a program of an environment without gcnrec, which makes its own."""
    found = [module for module, source in sources().items() if uses_of("torch.distributed", source)]
    assert sorted(found) == ["bench.contenders.torchrec_rows", "workers.world"]
    several = (
        "import torch\ntorch.distributed.barrier()\nfrom torch import distributed\nimport torch.distributed as dist\nimport os"
    )
    assert uses_of("torch.distributed", several) == [2, 3, 4]


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
    and compiled kernels lie in the user's cache folder, which the environment names; a run's lineage says what it began under;
    runs of a sweep get the number of the process to end with; workers are started by it, as torchrun's are."""
    for module, source in sources().items():
        names = {ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
        own = ("cli", "console.encoding", "cuda.tuning", "runs.lineage", "system.kernel_cache", "system.signals")
        own += ("workers.launch", "workers.world")
        may = module in own or module.startswith("bench.")
        assert may or not names & {"os.environ", "os.getenv"}, module
