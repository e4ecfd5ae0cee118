"""Who may import whom, and that importing the package stays cheap."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGE = "attcot_analysis"

LEVELS = {
    "attcot_analysis": {
        "escapes": 0,
        "errors": 1,
        "files": 2,
        "shipped": 2,
        "plain_yaml": 1,
        "presets": 3,
        "problems": 3,
        "stats": 4,
        "models": 4,
        "attention": 5,
        "measures": 6,
        "runs": 7,
        "train": 8,
        "show": 8,
        "doctor": 8,
        "cli": 9,
    },
    "attcot_lab": {},
    "benchmarks": {},
}
"""Packages in the order in which they may know one another, and the rooms of the library.

A room may import itself and rooms of lower level; rooms of one level do not know each other. The
library knows no other package, the laboratory knows the library, benchmarks know both."""

DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python-headless", "yaml": "pyyaml"}
"""Import names that differ from the name of the distribution."""


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, modules: set[str]) -> set[str]:
    """Every module a source imports, anywhere in it; `from package import module` is resolved."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write the full name"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                # The top's lazy names would hide where a thing comes from: count them as foreign.
                lazy = node.module in LEVELS and alias.name != "__version__"
                found.add(name if name in modules or lazy else node.module)
    return found


def forbidden_imports(graph: dict[str, set[str]]) -> list[str]:
    """The imports in a graph of modules that go against the direction of `LEVELS`."""
    order = list(LEVELS)
    bad = []
    for module, imported in graph.items():
        package, _, rest = module.partition(".")
        levels, room = LEVELS[package], rest.split(".")[0]
        if levels and room and room not in levels:
            bad.append(f"{module} belongs to no known room; add {room} to LEVELS")
            continue
        for other in imported:
            top, _, rest = other.partition(".")
            target = rest.split(".")[0]
            if top in order and top != package and order.index(top) > order.index(package):
                bad.append(f"{module} must not import {other}")
            beside = top == package and levels and room and target and target != room
            if beside and levels.get(target, 99) >= levels[room]:
                bad.append(f"{module} must not import {other}")
            if room in ("problems", "stats") and top in ("torch", "transformers"):
                bad.append(f"{module} must not import {other}")
    return sorted(bad)


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """One cycle among the modules of a graph, empty if there is none."""
    inside = {module: {o for o in others if o in graph} for module, others in graph.items()}
    try:
        TopologicalSorter(inside).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    sources = {
        module_name(path, ROOT): path for top in LEVELS for path in (ROOT / top).rglob("*.py")
    }
    return {
        module: imports_of(path.read_text(encoding="utf-8"), set(sources))
        for module, path in sources.items()
    }


def test_imports_follow_the_direction(graph):
    assert forbidden_imports(graph) == []


def test_no_import_cycle(graph):
    assert cycle(graph) == []


def needed(module: str, graph: dict[str, set[str]], without: str) -> set[str]:
    """What importing a module brings in, packages above a module among it."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in graph and name not in seen and not name.startswith(without):
            seen.add(name)
            waiting += [*graph[name], *([name.rpartition(".")[0]] if "." in name else [])]
    return seen


def test_a_comparison_needs_few_modules(graph):
    """Of the library, and without the explorers, which are made where checkpoints are at hand."""
    report = f"{PACKAGE}.show.report.compare"
    modules = needed(report, graph, without=f"{PACKAGE}.show.explorer")
    assert report in modules and f"{PACKAGE}.show" in modules
    assert not any(
        module.startswith(f"{PACKAGE}.{room}") for room in ("train", "cli") for module in modules
    )
    assert len(modules) <= 97, sorted(modules)


def test_every_import_is_a_declared_requirement(graph):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = sum(project["optional-dependencies"].values(), project["dependencies"])
    declared = {canonicalize_name(Requirement(text).name) for text in texts}
    tops = {name.split(".")[0] for imported in graph.values() for name in imported}
    third_party = tops - set(sys.stdlib_module_names) - set(LEVELS)
    needed = {canonicalize_name(DISTRIBUTIONS.get(top, top)) for top in third_party}
    assert needed - declared == set()


@pytest.mark.parametrize("module", [PACKAGE, f"{PACKAGE}.problems", f"{PACKAGE}.cli"])
def test_importing_is_cheap(module):
    code = f"import sys, {module}; print({{'torch', 'transformers'}} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("problems.edits", "import torch.nn", "problems.edits must not import torch.nn"),
        ("problems.edits", "from transformers import AutoModel", "must not import transformers"),
        ("stats.compare", "import torch", "stats.compare must not import torch"),
        (
            "stats.compare",
            "from attcot_analysis.models import load_mllm",
            "must not import .*models",
        ),
        ("measures.access", "def f():\n    import attcot_analysis.show", "must not import .*show"),
        ("measures.access", "from attcot_analysis.train.data import x", "must not import .*train"),
        (
            "attention.probe",
            "from attcot_analysis.measures.access import x",
            "must not import .*measures",
        ),
        ("show.curves", "from attcot_analysis import train", "must not import .*train"),
        ("train.data", "from attcot_analysis.show.style import x", "must not import .*show"),
        ("errors", "from attcot_analysis.problems import Box", "must not import .*problems"),
        ("runs.run", "from attcot_analysis import Problem", "must not import .*Problem"),
        ("show.curves", "from attcot_lab.figures import x", "must not import attcot_lab"),
        ("cli", "from attcot_lab.cli import grid", "must not import attcot_lab"),
        ("cli", "from benchmarks import run_bench", "must not import benchmarks"),
        ("extra", "", "belongs to no known room"),
    ],
)
def test_the_check_finds_what_is_forbidden(module, source, expected):
    modules = {f"{PACKAGE}.{part}" for part in LEVELS[PACKAGE]}
    planted = {f"{PACKAGE}.{module}": imports_of(source, modules)}
    (message,) = forbidden_imports(planted)
    assert re.search(expected, message)


def test_the_laboratory_knows_no_benchmark():
    planted = {"attcot_lab.grid": {"benchmarks.bench", "attcot_analysis.models"}}
    assert forbidden_imports(planted) == ["attcot_lab.grid must not import benchmarks.bench"]


def test_the_check_finds_cycles():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a", "json"}}) != []


def test_the_check_refuses_relative_imports():
    with pytest.raises(AssertionError, match="relative import"):
        imports_of("from . import errors", set())
