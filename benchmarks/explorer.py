"""Bench `explorer`: from a key press to the painted map in a real browser, and what files weigh.

It needs the ``browser`` extra and a chromium, as the browser tests do; see `find_chromium`.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from attcot_analysis.errors import MeasureError
from attcot_analysis.show.explorer.budget import choose_planes
from attcot_analysis.show.explorer.choice import PlaneKey
from attcot_analysis.show.explorer.figure import explorer_png
from attcot_analysis.show.explorer.page import explorer_fragment, explorer_page, page_script
from attcot_analysis.show.explorer.planes import Plane, pack_plane
from attcot_analysis.show.explorer.record import ExplorerRecord
from attcot_analysis.show.explorer.select import select
from attcot_analysis.show.explorer.widget import LIVE_BUDGET, Explorer
from benchmarks.clock import timed
from benchmarks.explorer_records import planted_record
from benchmarks.rows import Row, circumstances, judged

if TYPE_CHECKING:
    from playwright.sync_api import Page

_WATCH = """() => {
  const canvas = document.querySelectorAll('canvas.ax-map')[1];
  let start = 0;
  window.painted = [];
  window.framed = [];
  addEventListener('keydown', event => { start = event.timeStamp; }, {capture: true});
  // The label is written right after the map has been painted; the frame that shows it follows.
  new MutationObserver(() => {
    const from = start;
    window.painted.push(performance.now() - from);
    requestAnimationFrame(() => window.framed.push(performance.now() - from));
  }).observe(canvas, {attributeFilter: ['aria-label']});
}"""


@dataclass(frozen=True)
class Scale:
    """How large a bench is.

    Attributes:
        layers: Of the large record.
        heads: Of each layer.
        steps: Of the rationale, 30 tokens each.
        side: Of the token grid.
        presses: Keys pressed per measurement.
        judge: Whether our bars are for this scale.
    """

    layers: int
    heads: int
    steps: int
    side: int
    presses: int
    judge: bool


FULL = Scale(layers=28, heads=28, steps=10, side=32, presses=60, judge=True)
QUICK = Scale(layers=4, heads=4, steps=2, side=8, presses=6, judge=False)


def run(*, progress: bool = False, quick: bool = False, device: str = "cpu") -> list[Row]:
    """Measure a record of the testbed's size and one of a real model's.

    Returns:
        Latency with its bar of 30 ms, how long the kernel takes, and sizes.

    Raises:
        MeasureError: If playwright or a chromium is missing.
    """
    scale = QUICK if quick else FULL
    small = planted_record(models=2)
    large = planted_record(
        models=2,
        layers=scale.layers,
        heads=scale.heads,
        steps=scale.steps,
        step_tokens=30,
        rows=scale.side,
        cols=scale.side,
    )
    named = {
        "testbed's size": small,
        f"{scale.layers} x {scale.heads} x {len(large.tokens)} x {scale.side}²": large,
    }
    rows = _sizes(named, scale)
    rows += _kernel(large, scale)
    rows += _latencies(named, scale, progress)
    return [*rows, *circumstances(device, quick)]


def find_chromium() -> str:
    """The browser to use: ``$CHROME_BIN``, or the first of chromium and Chrome on the path.

    Raises:
        MeasureError: If there is none.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("CHROME_BIN") or next(filter(None, map(shutil.which, names)), None)
    if path is None:
        raise MeasureError("No chromium was found; install it or set CHROME_BIN.")
    return path


def _sizes(named: dict[str, ExplorerRecord], scale: Scale) -> list[Row]:
    rows = [Row("script of a page", len(page_script()) / 1e3, "kB")]
    for name, record in named.items():
        everything = choose_planes(record, None).keys
        one = len(pack_plane(record, everything[0]).data)
        rows += [
            Row(f"all maps, {name}", len(everything) * one / 1e6, "MB"),
            Row(f"page (to_html), {name}", len(explorer_page(record)) / 1e6, "MB"),
            judged(
                f"twin in a notebook, {name}",
                len(explorer_fragment(record)) / 1e3,
                "kB",
                at_most=350,
                judge=scale.judge,
            ),
            Row(f"still picture, {name}", len(explorer_png(record, select(record))) / 1e3, "kB"),
        ]
    return rows


def _kernel(record: ExplorerRecord, scale: Scale) -> list[Row]:
    made: list[Explorer] = []
    seconds = timed(lambda: made.append(Explorer(record)))
    answers = []
    for at in range(5):
        layer, head = at % record.n_layers, (3 * at) % record.n_heads
        keys = [PlaneKey("attention", model, layer, head) for model in range(2)]
        answers.append(timed(partial(_packed, record, keys)))
    sent = len(made[0].data) / 1e6
    most = LIVE_BUDGET / 1e6
    return [
        judged("sent at first, large", sent, "MB", at_most=most, judge=scale.judge),
        Row("making the widget, large", seconds, "s"),
        Row("kernel's answer to one choice, large", 1e3 * float(np.median(answers)), "ms"),
    ]


def _packed(record: ExplorerRecord, keys: list[PlaneKey]) -> list[Plane]:
    return [pack_plane(record, key) for key in keys]


def _latencies(named: dict[str, ExplorerRecord], scale: Scale, progress: bool) -> list[Row]:
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError as error:
        raise MeasureError(
            "The bench needs playwright; run `pip install 'attcot-analysis[browser]'`."
        ) from error
    chromium = find_chromium()
    rows: list[Row] = []
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        # No sandbox: containers run as root; no /dev/shm: they give it 64 MB.
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        for name, record in tqdm(named.items(), desc="explorer", disable=not progress):
            path = Path(folder) / "explorer.html"
            path.write_text(explorer_page(record), encoding="utf-8")
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(path.as_uri())
            page.wait_for_selector("#explorer[data-ready]", timeout=60_000)
            rows += _of_page(page, name, scale)
            page.close()
        rows.append(Row("chromium", browser.version, "version"))
        browser.close()
    return rows


def _of_page(page: "Page", name: str, scale: Scale) -> list[Row]:
    """Latency of moving through tokens and through layers."""
    rows = []
    page.evaluate(_WATCH)
    token = page.locator("[role=listbox] [role=option]").first
    layer = page.get_by_label("Layer", exact=True)
    for what, start in (("token", token), ("layer", layer)):
        start.click()
        start.press("Home")
        page.wait_for_timeout(200)
        page.evaluate("window.painted.length = window.framed.length = 0")
        for press in range(scale.presses):
            page.keyboard.press("ArrowLeft" if press % 4 == 3 else "ArrowRight")
            page.wait_for_timeout(40)
        painted, framed = _read(page, "painted"), _read(page, "framed")
        rows += [
            judged(
                f"key press to painted map, next {what}, {name}",
                float(np.median(painted)),
                "ms",
                at_most=30,
                judge=scale.judge,
            ),
            Row(f"the same, 95th percentile, {name}", float(np.quantile(painted, 0.95)), "ms"),
            Row(f"key press to the next frame, {what}, {name}", float(np.median(framed)), "ms"),
        ]
    return rows


def _read(page: Any, name: str) -> list[float]:
    found = [float(value) for value in page.evaluate(f"window.{name}")]
    if not found:
        raise MeasureError("The explorer's picture did not change on a key press.")
    return found
