"""The documentation's site, built: read at 1280 and 390 pixels, light and dark."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from browser.pages import SIZES, check_look, keep

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
