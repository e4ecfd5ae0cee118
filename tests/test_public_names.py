"""The public names exist, are few, are documented and are resolved on first use."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import attcot_analysis
import attcot_lab

ROOMS = ("attention", "measures", "models", "problems", "runs", "show", "stats", "train")
STUBS = ["attcot_analysis", "attcot_lab"]
STUBS += [f"attcot_analysis.{room}" for room in ROOMS if room != "models"]


def homes(package: str) -> dict[str, str]:
    """Public name -> the module that the package's stub names."""
    stub = Path(import_module(package).__file__).with_suffix(".pyi").read_text()
    imports = [node for node in ast.parse(stub).body if isinstance(node, ast.ImportFrom)]
    return {
        alias.asname: f"{package}.{node.module}"
        for node in imports
        if node.module is not None
        for alias in node.names
    }


NAMES = [(package, name) for package in STUBS for name in homes(package)]


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_public_name_resolves_and_is_documented(package, name):
    value = getattr(import_module(package), name)
    assert vars(import_module(homes(package)[name]))[name] is value
    if callable(value) and isinstance(getattr(value, "__doc__", None), str):
        assert value.__doc__.strip()


def test_a_researcher_meets_few_names_and_the_rooms():
    assert len(homes("attcot_analysis")) <= 45
    assert set(attcot_analysis.__all__) == {*homes("attcot_analysis"), *ROOMS}
    assert sorted(attcot_lab.__all__) == sorted(homes("attcot_lab"))
    for room in ROOMS:
        assert getattr(attcot_analysis, room).__name__ == f"attcot_analysis.{room}"


@pytest.mark.parametrize("package", STUBS)
def test_completion_knows_the_names_and_others_are_attribute_errors(package):
    module = import_module(package)
    assert set(homes(package)) <= set(dir(module))
    with pytest.raises(AttributeError, match="nothing"):
        _ = module.nothing


@pytest.mark.parametrize("package", STUBS)
def test_no_public_name_is_also_a_module(package):
    """Importing the module would put it where the name is looked up."""
    modules = {path.stem for path in Path(import_module(package).__file__).parent.iterdir()}
    assert modules & set(homes(package)) == set()


def test_names_come_from_a_stub_and_not_from_torch():
    code = "import attcot_analysis, sys; attcot_analysis.Problem; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_notebooks_import_the_faces_only():
    deep = []
    for path in sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        deep += [line for line in text.splitlines() if "import" in line and "attcot_" in line]
    faces = ("import attcot_analysis as ac", "import attcot_lab as lab", "from attcot_lab import")
    assert [line for line in deep if not any(face in line for face in faces)] == []
