"""Looking at edits: the contact sheet, what is saved from it, and rejected edits are not made."""

import json

import numpy as np
import pytest
from PIL import Image

from attcot_analysis.cli import main
from attcot_analysis.errors import ProblemError, ShowError
from attcot_analysis.problems import Problem, load_problems, save_problems
from attcot_analysis.problems.decisions import DECISIONS, keep_decisions, read_decisions
from attcot_analysis.problems.edits import edited_images, left_out
from attcot_analysis.problems.objects import with_twin
from attcot_analysis.show.edit_sheet import write_edit_sheet

EVIL = "<script>alert('x')</script>"


def items():
    """Two items with twin and control, and one without evidence."""
    found = []
    for name, boxes in (("a", ((8, 8, 24, 24),)), ("b", ((8, 8, 24, 24),)), ("c", ())):
        picture = Image.new("RGB", (64, 48), "grey")
        picture.paste((200, 30, 30), (8, 8, 24, 24))
        plain = Problem(name, picture, f"Which? {EVIL}", ("red", "blue"), "red", evidence=boxes)
        found.append(with_twin(plain, "blue", "recolour", colour="blue") if boxes else plain)
    return found


@pytest.fixture
def folder(tmp_path):
    save_problems(items(), tmp_path / "set")
    return tmp_path / "set"


def test_the_sheet_shows_every_edit_and_escapes_every_text(tmp_path):
    page = tmp_path / "edits.html"
    shown = write_edit_sheet(
        items(), ("twin", "occlude"), page, decisions={"b": {"twin": "reject"}}
    )
    text = page.read_text(encoding="utf-8")
    assert shown == {"twin": 2, "occlude": 2} and text.count("<article") == 4
    assert EVIL not in text and "&lt;script&gt;" in text
    assert text.count("<script") == 1 and text.count('data-kind="twin" data-decision="reject"') == 1
    assert "http" not in text.replace("http-equiv", "")
    with pytest.raises(ShowError, match="None of the 1 items shown allows any of the edits crop"):
        write_edit_sheet(items(), ("crop",), page, only=[2])


def test_a_rejected_edit_is_not_made_and_is_named(folder):
    (folder / DECISIONS).write_text(
        json.dumps({"a": {"twin": "reject", "occlude": "reject", "control": "accept"}})
    )
    with pytest.warns(UserWarning, match=r"2 edits are left out, rejected in edits\.json"):
        loaded = load_problems(folder)
    assert loaded[0].twin is None and loaded[0].control is not None and loaded[1].twin is not None
    kinds = ("twin", "control", "occlude", "occlude_control")
    made = [one for kind in kinds for one in edited_images(loaded, kind)]
    assert [one.at for one in edited_images(loaded, "twin", only=np.arange(2))] == [1]
    assert left_out(loaded, made, kinds) == {
        "twin": ["a", "c"],
        "control": ["c"],
        "occlude": ["a", "c"],
        "occlude_control": ["c"],
    }


def test_accepted_edits_and_a_folder_without_decisions_are_read_as_they_are(folder, recwarn):
    before = load_problems(folder)
    (folder / DECISIONS).write_text(json.dumps({"a": {"twin": "accept"}}))
    assert load_problems(folder) == before
    assert not recwarn.list


def test_decisions_are_added_to_earlier_ones(folder, tmp_path):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    first.write_text(json.dumps({"a": {"twin": "reject", "blur": "accept"}}))
    second.write_text(json.dumps({"a": {"twin": "accept"}, "b": {"twin": "reject"}}))
    for file in (first, second):
        kept = keep_decisions(folder, file, {"a", "b", "c"})
    assert kept == {"a": {"twin": "accept", "blur": "accept"}, "b": {"twin": "reject"}}
    assert read_decisions(folder) == kept


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as decisions"),
        ('{"a": {"twin": "maybe"}}', "does not hold decisions"),
        ('["a"]', "does not hold decisions"),
        ('{"z": {"twin": "reject"}}', "decides on item 'z', which is not among the 3 problems"),
    ],
)
def test_wrong_decisions_are_one_sentence(folder, tmp_path, text, message):
    file = tmp_path / "edits.json"
    file.write_text(text)
    with pytest.raises(ProblemError, match=message):
        keep_decisions(folder, file, {"a", "b", "c"})


def test_the_commands_preview_and_keep(folder, tmp_path, capsys):
    assert main(["edits", "preview", str(folder), "--edits", "twin", "mirror", "--items", "2"]) == 0
    out = capsys.readouterr().out
    assert "4 edits of 2 of 3 items." in out and (folder / "edits.html").exists()
    again = ["edits", "preview", str(folder), "--edits", "twin", "blank", "--overwrite"]
    assert main(again) == 0
    out = capsys.readouterr().out
    assert "1 of 3 items do not allow twin" in out and "do not allow blank" not in out
    assert main(["edits", "preview", str(folder)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    saved = tmp_path / "saved.json"
    saved.write_text(json.dumps({"a": {"twin": "reject"}, "b": {"twin": "accept"}}))
    assert main(["edits", "keep", str(folder), str(saved)]) == 0
    assert "1 edits accepted, 1 rejected." in capsys.readouterr().out
    with pytest.warns(UserWarning, match="1 edit is left out"):
        assert load_problems(folder)[0].twin is None
