"""Bench `explorer`: from a key press to the painted map in a real browser, and what files weigh.

It needs the ``browser`` extra and a chromium, as the browser tests do; see `find_chromium`.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.maps import ResponseMaps, Source
from attcot_analysis.models import TokenGrid
from attcot_analysis.problems import Box, Problem, Step
from attcot_analysis.show.explorer.page import (
    explorer_fragment,
    explorer_page,
    explorer_png,
    page_script,
)
from attcot_analysis.show.explorer.planes import Plane, choose_planes, pack_plane
from attcot_analysis.show.explorer.record import ExplorerModel, ExplorerRecord, PlaneKey, select
from attcot_analysis.show.explorer.widget import LIVE_BUDGET, Explorer
from benchmarks.bench import Row, Scale, judged, timed

if TYPE_CHECKING:
    from playwright.sync_api import Page

LABELS = ("CoT-SFT", "Att-CoT", "Base", "SAYO")

WORDS = (" the", " arrow", " in", " b", "2", " points", " down", " to", " c", "3", ".\n")


def planted_record(
    *,
    models: int = 2,
    layers: int = 4,
    heads: int = 4,
    steps: int = 3,
    step_tokens: int = 8,
    rows: int = 6,
    cols: int = 6,
    labels: Sequence[str] = LABELS,
    text: str | None = None,
) -> ExplorerRecord:
    """A record in which a bright spot walks over the picture with token, layer and head.

    Its attention is a strided view of few numbers, so that a record of hundreds of millions takes
    no more memory than its tokens.

    Args:
        models: How many, at most four.
        layers: Of attention.
        heads: Of each layer.
        steps: Of the rationale, K.
        step_tokens: Of each step; the text has seven more.
        rows: Of the token grid.
        cols: Of the token grid.
        labels: Of the models.
        text: Put into question, candidates, labels and tokens, to see that it stays text.
    """
    side = 16 * max(rows, cols)
    boxes = [_box(number, rows, cols) for number in range(steps)]
    names = ("blue", "red", text or "green", "yellow")
    problem = Problem(
        id="planted",
        image=_picture(16 * cols, 16 * rows, side),
        question=f"Anna starts at a1 and follows {steps} arrows. On which colour?{text or ''}",
        candidates=names,
        answer="blue",
        steps=tuple(Step(f"step {number}", (box,)) for number, box in enumerate(boxes, start=1)),
        habitual="red",
    )
    tokens = ["<think>", "\n"]
    of_step = [0, 0]
    for number in range(1, steps + 1):
        words = [str(number), ".", *(WORDS[at % len(WORDS)] for at in range(step_tokens - 3)), "\n"]
        tokens += words[:step_tokens]
        of_step += [number] * step_tokens
    tokens += ["</think>", "\n", text or "<answer>", "blue", "</answer>"]
    of_step += [0] * 5
    answer = len(tokens) - 2
    grid = TokenGrid.regular(problem.image.size, rows, cols)
    per_token = tuple((boxes[step - 1],) if step else () for step in of_step)

    def maps(weights: npt.NDArray[np.float32], source: Source) -> ResponseMaps:
        return ResponseMaps(weights, grid, tuple(tokens), tuple(of_step), per_token, answer, source)

    planted = []
    for at in range(models):
        walk = _walk(len(tokens) + 3 * layers + 5 * heads, rows, cols, speed=0.37 + 0.11 * at)
        strides = (3 * walk.strides[0], 5 * walk.strides[0], *walk.strides)
        shape = (layers, heads, len(tokens), rows * cols)
        attention = np.lib.stride_tricks.as_strided(walk, shape, strides, writeable=False)
        slow = _walk(len(tokens), rows, cols, speed=0.15 + 0.05 * at)[None, None]
        by_step = slow[:, :, [2 + (step - 1) * step_tokens if step else 0 for step in of_step]]
        by_step = np.where(np.array(of_step)[:, None] > 0, by_step, np.nan).astype(np.float32)
        planted.append(
            ExplorerModel(
                label=f"{labels[at]}{text or ''}",
                maps=(
                    maps(attention, "attention"),
                    maps(slow, "rollout"),
                    maps(by_step, "gradient_relevance"),
                ),
                commitment=_commitment(problem, steps, at),
                response=f"<think>\n1. {text or 'a1 points to b1.'}\n</think>",
                answer=names[(at + 1) % 2],
            )
        )
    visual = tuple((layer, head) for layer in range(layers) for head in range(layer % 2, heads, 2))
    return ExplorerRecord(problem, tuple(planted), visual, "Every other head.", "Planted words.")


def _walk(n: int, rows: int, cols: int, speed: float) -> npt.NDArray[np.float32]:
    """``(n, rows * cols)``: a spot on a path through the grid, its mass between 0.2 and 0.9."""
    at = np.arange(n)
    y = (rows - 1) * (0.5 + 0.45 * np.sin(speed * at))
    x = (cols - 1) * (0.5 + 0.45 * np.cos(1.3 * speed * at))
    down = np.exp(-(((np.arange(rows) - y[:, None]) / (0.14 * rows)) ** 2))
    across = np.exp(-(((np.arange(cols) - x[:, None]) / (0.14 * cols)) ** 2))
    spot = (down[:, :, None] * across[:, None, :] + 0.01).reshape(n, -1)
    mass = 0.55 + 0.35 * np.sin(0.9 * speed * at)
    return (spot / spot.sum(axis=1, keepdims=True) * mass[:, None]).astype(np.float32)


def _box(number: int, rows: int, cols: int) -> Box:
    """A box of a third of the picture's side, another one for every step."""
    width, height = 16 * cols / 3, 16 * rows / 3
    row, col = divmod(4 * number % 9, 3)
    return (col * width, row * height, (col + 1) * width, (row + 1) * height)


def _picture(width: int, height: int, side: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    rings = np.hypot(x - width / 3, y - height / 2) % (side / 6) < side / 12
    pixels = np.stack([255 * x / width, 255 * y / height, 90 + 120 * rings], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def _commitment(problem: Problem, steps: int, at: int) -> pd.DataFrame:
    """The first model is sure of the habit from the start, the others learn it step by step."""
    rows = []
    for step in range(steps + 1):
        rising = step / steps
        p = [0.05 + 0.8 * rising, 0.85 - 0.8 * rising, 0.05, 0.05]
        if at == 0:
            p = [0.04, 0.9, 0.03, 0.03]
        for name, value in zip(problem.candidates, p, strict=True):
            rows.append(
                {
                    "item": problem.id,
                    "control": "rationale",
                    "step": step,
                    "n_steps": steps,
                    "candidate": name,
                    "log_p": float(np.log(value)),
                    "p": value,
                    "leaked": step == steps and name == "blue",
                }
            )
    return pd.DataFrame(rows)


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


FULL = Scale(
    layers=28,  # of the large record
    heads=28,  # of each layer
    steps=10,  # of the rationale, 30 tokens each
    side=32,  # of the token grid
    presses=60,  # keys pressed per measurement
)
QUICK = Scale(layers=4, heads=4, steps=2, side=8, presses=6)


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
    return [*_sizes(named), *_kernel(large), *_latencies(named, scale.presses, progress)]


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


def _sizes(named: dict[str, ExplorerRecord]) -> list[Row]:
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
            ),
            Row(f"still picture, {name}", len(explorer_png(record, select(record))) / 1e3, "kB"),
        ]
    return rows


def _kernel(record: ExplorerRecord) -> list[Row]:
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
        judged("sent at first, large", sent, "MB", at_most=most),
        Row("making the widget, large", seconds, "s"),
        Row("kernel's answer to one choice, large", 1e3 * float(np.median(answers)), "ms"),
    ]


def _packed(record: ExplorerRecord, keys: list[PlaneKey]) -> list[Plane]:
    return [pack_plane(record, key) for key in keys]


def _latencies(named: dict[str, ExplorerRecord], presses: int, progress: bool) -> list[Row]:
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
            rows += _of_page(page, name, presses)
            page.close()
        rows.append(Row("chromium", browser.version, "version"))
        browser.close()
    return rows


def _of_page(page: "Page", name: str, presses: int) -> list[Row]:
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
        for press in range(presses):
            page.keyboard.press("ArrowLeft" if press % 4 == 3 else "ArrowRight")
            page.wait_for_timeout(40)
        painted, framed = _read(page, "painted"), _read(page, "framed")
        rows += [
            judged(
                f"key press to painted map, next {what}, {name}",
                float(np.median(painted)),
                "ms",
                at_most=30,
            ),
            Row(f"the same, 95th percentile, {name}", float(np.quantile(painted, 0.95)), "ms"),
            Row(f"key press to the next frame, {what}, {name}", float(np.median(framed)), "ms"),
        ]
    return rows


def _read(page: Any, name: str) -> list[float]:
    latencies = [float(value) for value in page.evaluate(f"window.{name}")]
    if not latencies:
        raise MeasureError("The explorer's picture did not change on a key press.")
    return latencies
