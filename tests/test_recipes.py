"""The blocks of docs/recipes.md run in their order, as a reader would run them."""

import ast
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from attcot_analysis.cli import command_line, main

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(<!-- not run: .+? -->\n)?```(bash|python)\n(.*?)```", PAGE, re.DOTALL)


def commands(block):
    """The commands of a block as lists of words, as a shell would cut them."""
    return [shlex.split(line) for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def write_responses(run):
    """What a server and somebody's script would have left of the responses of a run."""
    answers = pd.read_parquet(sorted((run / "tables").glob("answers_cot*"))[0])
    lines = answers[["item", "text"]]
    lines.to_json("responses.jsonl", orient="records", lines=True)
    table = lines.rename(columns={"item": "index", "text": "prediction"})
    table.to_csv("predictions.tsv", sep="\t", index=False)


@pytest.mark.long
def test_every_block_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "data").symlink_to(ROOT / "data")
    picture = np.random.default_rng(0).integers(0, 255, (60, 90, 3)).astype(np.uint8)
    Image.fromarray(picture).save("photo.jpg")
    space: dict = {}
    for left_out, language, block in BLOCKS:
        if language == "python":
            tree = ast.parse(block)
            if not left_out:
                exec(compile(tree, "recipe", "exec"), space)
            continue
        for words in commands(block):
            if left_out:
                start = next(at for at, word in enumerate(words) if word.startswith("attcot"))
                words = words[start + 1 :]
                command = command_line().commands[words[0]]
                command.make_context("attcot", words[1:], resilient_parsing=True)
            else:
                assert words[0] == "attcot"
                assert main(words[1:]) == 0, f"{shlex.join(words)}: {capsys.readouterr()}"
            if words[1:2] == ["report"]:
                write_responses(tmp_path / "runs" / "base")
    sys.modules.pop("my_edits", None)
    made = "photo.html gallery.html runs/base/report.html paper/table.tex edits.html values.csv"
    made = [tmp_path / name for name in (*made.split(), "requests.jsonl")]
    assert all(path.stat().st_size > 100 for path in made)
    assert len(list((tmp_path / "paper").glob("*.pdf"))) >= 2
    assert len(Path("from_table.jsonl").read_text().splitlines()) == 2
    assert set(json.loads(Path("from_table.jsonl").read_text().splitlines()[0])) == {"id", "text"}
    mirrored = pd.concat(
        pd.read_parquet(path) for path in (tmp_path / "runs/mirrored/tables").glob("dependence*")
    )
    assert "my_edits:mirrored" in set(mirrored["edit"])
