"""Several items in one page, by keyboard alone: sorted, filtered, opened, linked to."""

from pathlib import Path

import pytest
from browser.pages import ASK, RUN_ALL, SIZES, check_look, keep
from playwright.sync_api import expect
from show.test_gallery import VALUES, planted, planted_values

from attcot_analysis.show.explorer.gallery import gallery_spec
from attcot_analysis.show.explorer.page import gallery_page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A page of three items and one that could not be measured."""
    made = [planted(name, steps=2 + at, cols=6 + 3 * at) for at, name in enumerate(VALUES)]
    problems = [record.problem for record in [*made, planted("failed")]]
    told = gallery_spec(problems, planted_values())
    page = gallery_page([*made, "The response has no step."], told)
    path = tmp_path_factory.mktemp("gallery") / "page.html"
    path.write_text(page, encoding="utf-8")
    return path


def items(page):
    return page.get_by_role("listbox", name="Items")


def names(page):
    return items(page).locator("span").all_inner_texts()


def test_items_are_sorted_filtered_and_opened_by_keyboard(visit, path, violations):
    page = visit(path, offline=True)
    page.wait_for_selector("#explorer[data-ready]")
    said = page.locator(".attcot-gallery [role=status]")
    assert names(page) == [*VALUES, "failed"] and violations(page) == []
    page.keyboard.press("Tab")
    expect(page.get_by_label("Sort", exact=True)).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert names(page)[0] == "unread", "the largest loss on the twin"
    page.keyboard.press("ArrowUp")
    assert names(page) == ["early", "late", "unread", "failed"]
    early = items(page).get_by_role("option", name="early")
    expect(early).to_contain_text("commitment area: 0.900")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Show", exact=True)).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(said).to_contain_text("1 of 4 items")
    page.keyboard.press("Home")
    expect(said).to_contain_text("4 of 4 items")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(said).to_contain_text("unread, 3 of 4")
    assert "item=unread" in page.url and page.locator(".attcot-explorer").count() == 1
    assert "step 4" in page.locator(".ax-strip").inner_text()
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    expect(said).to_contain_text("The response has no step.")
    assert "item=unread" in page.url, "the item before stays"


def test_a_link_leads_to_an_item_a_layer_a_head_and_a_token(visit, path):
    page = visit(f"{path.as_uri()}#item=late&layer=2&head=1&token=step 2")
    page.wait_for_selector("#explorer[data-ready]")
    status = page.locator(".attcot-explorer [role=status]")
    expect(status).to_contain_text("Step 2")
    expect(status).to_contain_text("layer 2, head 1")
    is_open = items(page).locator("[aria-selected=true]")
    expect(is_open).to_contain_text("late")
    page.evaluate("location.hash = '#item=unread&token=3'")
    expect(is_open).to_contain_text("unread")
    expect(status).to_contain_text("Token 3")


@pytest.mark.parametrize(("size", "scheme"), [("wide", "light"), ("narrow", "dark")])
def test_the_gallery_looks_as_it_did(visit, path, size, scheme):
    page = visit(path, size, color_scheme=scheme)
    page.wait_for_selector("#explorer[data-ready]")
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    keep(page, f"gallery_{size}_{scheme}")
    check_look(page, f"gallery_{size}_{scheme}")


CELL = """
import sys; sys.path.insert(0, "{tests}")
from show.test_gallery import VALUES, planted, planted_values
from attcot_analysis.show.explorer.widget import Gallery
made = {{name: planted(name, steps=2 + at, cols=6 + 3 * at) for at, name in enumerate(VALUES)}}
problems = [record.problem for record in made.values()]
gallery = Gallery(problems, lambda one: made[one.id], values=planted_values(), twin=False)
gallery
"""


@pytest.mark.long
def test_items_are_opened_in_jupyterlab(visit, lab):
    cell = CELL.format(tests=Path(__file__).parents[1])
    page = visit(lab.address("gallery.ipynb", [cell]))
    page.wait_for_selector(".jp-Notebook")
    assert page.evaluate(RUN_ALL) == []
    page.get_by_label("Sort", exact=True).select_option("most premature (commitment area)")
    items(page).get_by_role("option", name="early").press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator(".attcot-gallery [role=status]")).to_contain_text("late, 2 of 3")
    expect(page.locator(".attcot-explorer")).to_have_count(1)
    expect(page.locator(".ax-strip")).to_contain_text("step 3")
    assert page.evaluate(ASK, "print(gallery.record.problem.id)") == "late"
    page.evaluate(ASK, "gallery.item = 2")
    expect(page.locator(".ax-strip")).to_contain_text("step 4")
