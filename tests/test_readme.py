"""What the README promises exists: files, names, and code that parses."""

import ast
import re
from pathlib import Path

import pytest

import attcot_analysis
import attcot_lab

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "data/README.md",
    "docs/datasets.md",
    "docs/explorer.md",
    "docs/measuring.md",
    "docs/training.md",
]
ROOMS = ("attention", "measures", "models", "problems", "runs", "show", "stats", "train")
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)", text)
    local = [target for target in targets if not target.startswith("http")]
    missing = [target for target in local if not (ROOT / page).parent.joinpath(target).exists()]
    assert missing == []


def test_code_uses_public_names_only():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    used = {
        node.attr
        for block in blocks
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "ac"
    }
    assert used - set(attcot_analysis.__all__) == set()


def test_the_map_names_public_functions():
    house = README.split("## Package overview")[1].split("\n## ")[0]
    rows = [line.split("|") for line in house.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 5
    for row in rows:
        names = re.findall(r"`([^`]+)`", "|".join(row[3:]))
        unknown = {name for name in names if not name.startswith("attcot ")}
        rooms = (getattr(attcot_analysis, room) for room in ROOMS)
        public = {name for face in (attcot_analysis, attcot_lab, *rooms) for name in face.__all__}
        assert unknown - public == set(), row[1]
