"""The course in real JupyterLab: notebooks with an explorer run there, and links lead on."""

import re
import shutil
from pathlib import Path

import pytest
from browser.pages import RUN_ALL, keep, watch
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FOLDER = Path(__file__).parents[2] / "notebooks"
LIVE = [
    path.name for path in sorted(FOLDER.glob("*.ipynb")) if "ac.explore(" in path.read_text("utf-8")
]
FEW = "N_ITEMS = 3"
SCROLL = """word => {
  const {content} = window.jupyterapp.shell.currentWidget;
  const at = content.widgets.findIndex(cell => cell.model.sharedModel.source.includes(word));
  if (at < 0) throw new Error(`no cell holds ${word}`);
  content.activeCellIndex = at;
  return content.scrollToItem(at, 'start');
}"""
# The notebook's element is there before its file has been read.
LOADED = """() => {
  const panel = window.jupyterapp?.shell.currentWidget;
  const cells = panel?.content?.model?.cells.length;
  return panel?.context?.isReady && cells > 1 && panel.content.widgets.length === cells;
}"""
OPEN = "() => window.jupyterapp.shell.currentWidget?.context?.path"


@pytest.fixture(scope="module")
def course(lab):
    """The notebooks as they are committed, but on a few items."""
    folder = lab.root / "course"
    shutil.copytree(FOLDER, folder)
    for path in folder.glob("*.ipynb"):
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r"N_ITEMS = \d+", FEW, text), encoding="utf-8")
    return folder.name


@pytest.fixture
def page(browser):
    """A page in which nothing may go wrong."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    trouble = watch(page)
    yield page
    found = list(trouble)
    # A kernel that lives on would fill the next page with its widgets.
    page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")
    context.close()
    assert found == []


def visit(page, lab, course, name):
    page.goto(f"{lab.url}/doc/tree/{course}/{name}?reset")
    page.wait_for_selector(".jp-Notebook")
    page.wait_for_function(LOADED)


def test_before_it_runs_the_stored_picture_is_shown(lab, course, page):
    visit(page, lab, course, LIVE[0])
    page.evaluate(SCROLL, "ac.explore(")
    picture = page.locator(".jp-OutputArea img").first
    expect(picture).to_be_visible()
    assert picture.evaluate("one => one.naturalWidth") > 400


def test_links_lead_through_the_course(lab, course, page):
    visit(page, lab, course, "00_start_here.ipynb")
    page.get_by_role("link", name="01 Visual access").first.click()
    page.wait_for_function(f"({OPEN})() === '{course}/01_visual_access.ipynb'")
    page.get_by_role("link", name="contents").first.click()
    page.wait_for_function(f"({OPEN})() === '{course}/README.md'")
    expect(page.locator(".jp-MarkdownViewer table")).to_be_visible()


@pytest.mark.long
@pytest.mark.parametrize("name", LIVE)
def test_a_notebook_with_an_explorer_runs_and_the_explorer_lives(lab, course, page, name):
    visit(page, lab, course, name)
    assert page.evaluate(RUN_ALL) == []
    page.evaluate(SCROLL, "ac.explore(")
    explorer = page.locator(".attcot-explorer")
    expect(explorer).to_have_count(1)
    status = explorer.locator("[role=status]")
    before = status.inner_text()
    expect(explorer).to_have_css("border-top-style", "solid")  # its style sheet has arrived
    keep(page, f"{name.removesuffix('.ipynb')}_lab")
    explorer.locator("[role=option][aria-selected=true]").press("ArrowRight")
    expect(status).not_to_have_text(before)
