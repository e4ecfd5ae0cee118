"""The public names exist, are documented and are resolved on first use."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import attcot_analysis
import attcot_lab

PACKAGES = (attcot_analysis, attcot_lab)


def homes(package) -> dict[str, str]:
    """Public name -> the module that its stub names."""
    stub = Path(package.__file__).with_suffix(".pyi").read_text()
    imports = [node for node in ast.parse(stub).body if isinstance(node, ast.ImportFrom)]
    return {
        alias.asname: f"{package.__name__}.{node.module}"
        for node in imports
        for alias in node.names
    }


NAMES = [(package, name) for package in PACKAGES for name in homes(package)]


@pytest.mark.parametrize(
    ("package", "name"), NAMES, ids=lambda one: one if isinstance(one, str) else one.__name__
)
def test_public_name_resolves_and_is_documented(package, name):
    value = getattr(package, name)
    assert vars(import_module(homes(package)[name]))[name] is value
    if callable(value) and isinstance(getattr(value, "__doc__", None), str):
        assert value.__doc__.strip()


@pytest.mark.parametrize("package", PACKAGES)
def test_all_lists_the_stub_s_names(package):
    assert sorted(package.__all__) == sorted(homes(package))
    assert set(package.__all__) <= set(dir(package))


@pytest.mark.parametrize("package", PACKAGES)
def test_unknown_name_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match="nothing"):
        _ = package.nothing


@pytest.mark.parametrize("package", PACKAGES)
def test_no_public_name_is_also_a_module(package):
    """Importing the module would put it where the name is looked up."""
    modules = {path.stem for path in Path(package.__file__).parent.iterdir()}
    assert modules & set(homes(package)) == set()


def test_names_come_from_a_stub_that_is_installed_with_the_package():
    code = "import attcot_analysis, sys; attcot_analysis.Problem; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
