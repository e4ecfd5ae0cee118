"""Pages in headless chromium that must stay at home and quiet; JupyterLab on the loopback."""

from pathlib import Path
from typing import Any

import pytest
from browser.pages import SIZES, Lab, watch

AXE = Path(__file__).parent / "axe" / "axe.min.js"


@pytest.fixture
def visit(browser):
    """Open an address in a page of its own.

    Afterwards no request may have left this machine, and nothing may have been logged as an error.
    """
    opened = []

    def go(url: str | Path, size: str = "wide", **options: Any):
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        page = context.new_page()
        page.set_default_timeout(60_000)
        opened.append((context, watch(page)))
        page.goto(url.as_uri() if isinstance(url, Path) else url)
        return page

    yield go
    for context, _ in opened:
        context.close()
    assert [trouble for _, trouble in opened if trouble] == []


@pytest.fixture
def violations():
    """The serious violations that axe finds in a page, or in a part of it."""

    def check(page, part: str | None = None) -> list[str]:
        # Not as a script element: the page's policy forbids any script but its own.
        page.evaluate(AXE.read_text(encoding="utf-8") + "; undefined")
        found = page.evaluate(
            "part => axe.run(part ?? document, {resultTypes: ['violations'], preload: false})", part
        )
        return [
            f"{one['id']}: {node['html'][:160]} {node['failureSummary']}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]

    return check


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """A JupyterLab for the whole session."""
    made = Lab(tmp_path_factory.mktemp("lab"))
    try:
        made.wait()
        yield made
    finally:
        made.server.terminate()
        made.server.wait(30)
