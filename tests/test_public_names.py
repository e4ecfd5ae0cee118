"""The names that `import attcot_analysis` promises exist, and type checkers see the same ones."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

import attcot_analysis

NAMES = [name for name in attcot_analysis.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", NAMES)
def test_public_name_resolves_and_is_documented(name):
    value = getattr(attcot_analysis, name)
    home = import_module(f"attcot_analysis.{attcot_analysis._MODULE_OF[name]}")
    assert vars(home)[name] is value
    if callable(value) and isinstance(getattr(value, "__doc__", None), str):
        assert value.__doc__.strip()


def test_stub_lists_the_same_names_from_the_same_modules():
    stub = Path(attcot_analysis.__file__).with_suffix(".pyi")
    imports = [
        node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom)
    ]
    listed = {alias.asname: node.module for node in imports for alias in node.names}
    assert listed == {
        name: f"attcot_analysis.{module}" for name, module in attcot_analysis._MODULE_OF.items()
    }


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = attcot_analysis.nothing


def test_completion_lists_the_lazy_names():
    assert set(attcot_analysis.__all__) <= set(dir(attcot_analysis))


def test_no_public_name_is_also_a_module():
    """Importing the module would put it where the name is looked up."""
    modules = {path.stem for path in Path(attcot_analysis.__file__).parent.iterdir()}
    assert modules & set(NAMES) == set()
