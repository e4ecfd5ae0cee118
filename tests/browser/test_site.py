"""The documentation's site, built: read at 1280 and 390 pixels, light and dark."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from browser.pages import SIZES, check_look, keep
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.long]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_a_page_looks_as_it_did_and_never_scrolls_sideways(visit, site, size, scheme):
    page = visit(site / "measuring.html", size, color_scheme=scheme)
    page.wait_for_load_state("networkidle")
    keep(page, f"site_{size}_{scheme}")
    check_look(page, f"site_{size}_{scheme}")
    for name in ("index", "explorer", "testbed", "metrics"):
        page.goto((site / f"{name}.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
        for picture in page.locator(".md-content img").all():
            assert picture.bounding_box()["width"] <= SIZES[size][0]


def test_a_table_wider_than_the_screen_shows_that_there_is_more(visit, site):
    page = visit(site / "testbed.html", "narrow")
    wide = page.locator(".md-typeset__scrollwrap").first
    assert wide.evaluate("box => box.scrollWidth > box.clientWidth")
    wide.scroll_into_view_if_needed()
    keep(page, "site_table_narrow")
    assert "linear-gradient" in wide.evaluate("box => getComputedStyle(box).backgroundImage")


ASKED = {
    "where did it look at step 2": ("visual access", "metrics.html#visual-access"),
    "when did it decide": ("commitment", "metrics.html#commitment"),
    "what did an edit change": ("dependence", "metrics.html#dependence"),
}


def tab_to(page, text: str) -> None:
    """Press Tab until a link of this text has the focus."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent.trim().toLowerCase()") == text:
            return
    raise AssertionError(f"the keyboard does not reach {text!r}")


def is_there(page, address: str) -> None:
    """Whether a page is open, and its section is what is seen."""
    name, _, section = address.partition("#")
    page.wait_for_url(f"**/{name}*")
    expect(page.locator(f"#{section}")).to_be_in_viewport()
    assert page.evaluate("location.hash") == f"#{section}"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("asked", ASKED)
def test_two_minutes_by_keyboard_alone(visit, site, size, asked):
    """Where it looked at step 2, when it decided, what the edit changed: asked, and found."""
    link, section = ASKED[asked]
    page = visit(site / "index.html", size)
    # From the start page's own table.
    tab_to(page, "skip to content")
    page.keyboard.press("Enter")
    tab_to(page, link)
    page.keyboard.press("Enter")
    is_there(page, section)
    # By asking in plain words.
    page.goto((site / "index.html").as_uri())
    page.wait_for_load_state("networkidle")
    page.keyboard.press("/")
    expect(page.get_by_role("textbox", name="Search")).to_be_focused()
    page.keyboard.type(asked)
    guide = "explorer.html#where-did-it-look"
    expect(page.locator(f".md-search-result__link[href*='{guide}']")).to_be_visible()
    for _ in range(6):
        page.keyboard.press("ArrowDown")
        if guide in (page.evaluate("document.activeElement.href") or ""):
            break
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/{guide}*")
    expect(page.get_by_role("heading", name="Where did it look")).to_be_in_viewport()
    tab_to(page, link)
    page.keyboard.press("Enter")
    is_there(page, section)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index", "explorer", "measuring", "metrics", "counterfactuals"])
def test_axe_finds_no_serious_violation(visit, site, violations, name, scheme):
    page = visit(site / f"{name}.html", color_scheme=scheme, bypass_csp=True)
    page.wait_for_load_state("networkidle")
    assert violations(page) == []
