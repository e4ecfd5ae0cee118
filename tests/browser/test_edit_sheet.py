"""The contact sheet of edits in headless chromium: decided by keys and buttons, saved as a file."""

import json
from pathlib import Path

import pytest
from browser.pages import SIZES, keep
from playwright.sync_api import expect
from tiny import noise_image

from attcot_analysis.problems import Problem
from attcot_analysis.show.edit_sheet import write_edit_sheet

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("size", list(SIZES))
def test_edits_are_decided_by_keys_and_buttons_and_saved(visit, tmp_path, size):
    box = ((20, 20, 60, 60),)
    items = [
        Problem(name, noise_image(300, 200, at), "What?", (), "red", evidence=box)
        for at, name in enumerate("ab")
    ]
    write_edit_sheet(items, ["occlude", "blank"], tmp_path / "edits.html")
    page = visit(tmp_path / "edits.html", size, color_scheme="dark")
    rows, said = page.locator("article"), page.locator("#count")
    expect(said).to_have_text("0 accepted, 0 rejected, 4 undecided")
    rows.first.focus()
    for key in "rau":
        page.keyboard.press(key)
    rows.nth(3).get_by_role("button", name="Accept").click()
    rows.first.get_by_role("button", name="Reject").click()
    expect(said).to_have_text("2 accepted, 1 rejected, 1 undecided")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= SIZES[size][0]
    keep(page, f"edit_sheet_{size}")
    with page.expect_download() as saved:
        page.keyboard.press("s") if size == "wide" else page.get_by_role(
            "button", name="Save edits.json"
        ).click()
    assert json.loads(Path(saved.value.path()).read_text()) == {
        "a": {"occlude": "reject", "blank": "accept"},
        "b": {"blank": "accept"},
    }
