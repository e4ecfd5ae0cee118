"""The blocks of docs/extending.md run, are short, and do what they say."""

import ast
import re
from pathlib import Path

import pytest

from attcot_analysis.models.families import FAMILIES
from attcot_analysis.problems.edits import EDIT_KINDS
from attcot_analysis.stats import catalogue

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^## A ([\w ]+)\n.*?```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))


@pytest.fixture(autouse=True)
def as_before(monkeypatch, tmp_path):
    """Tables that the blocks extend are left as they were."""
    monkeypatch.chdir(tmp_path)
    families, edits, metrics = list(FAMILIES), dict(EDIT_KINDS), dict(catalogue._METRICS)
    yield
    FAMILIES[:] = families
    for table, before in ((EDIT_KINDS, edits), (catalogue._METRICS, metrics)):
        table.clear()
        table.update(before)


def test_the_page_says_one_file_for_each():
    rows = re.findall(r"^\| an? (.+?) \| `(.+?)`", PAGE, re.MULTILINE)
    assert [name for name, _ in rows] == list(BLOCKS)
    assert all((ROOT / path).is_file() for _, path in rows)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_runs_and_has_at_most_fifteen_lines(name, capsys):
    block = BLOCKS[name]
    assert len([line for line in block.splitlines() if line.strip()]) <= 15
    space: dict = {}
    exec(compile(ast.parse(block), name, "exec"), space)
    printed = capsys.readouterr().out
    if name == "metric":
        assert "words" in printed and "32.0" in printed and "words" in catalogue.METRICS
    elif name == "model family":
        assert FAMILIES[-1].name == "my_llava"
    elif name == "picture edit":
        assert printed == "4\n"
    else:
        assert space["word_dots"].__name__ == "word_dots"
