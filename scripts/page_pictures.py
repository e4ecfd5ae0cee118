"""Draw the pages that README and docs show: an explorer in use, animated, and a report.

Usage: python scripts/page_pictures.py [explorer] [report]    (minutes; needs the browser extra)

Writes docs/images/explorer.gif and docs/images/report.png, of the shipped models of testbed B.
"""

import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

import attcot_analysis as ac
import attcot_lab as lab
from attcot_analysis.show.explorer.build import explorer_record
from attcot_analysis.show.explorer.page import explorer_page
from attcot_analysis.show.explorer.record import select
from benchmarks.explorer import find_chromium

IMAGES = Path(__file__).parents[1] / "docs" / "images"
MOST = 1_000_000  # bytes of a picture
LENGTH = {"max_new_tokens": 64}
CAPTION = """words => {
  const bar = document.querySelector('#caption') ?? document.body.appendChild(
    Object.assign(document.createElement('p'), {id: 'caption'}));
  bar.textContent = words;
  bar.style = 'position:fixed;left:0;right:0;bottom:0;margin:0;padding:12px 24px;'
    + 'background:#0b62b8;color:#fff;font:600 21px system-ui,sans-serif';
}"""


def explorer_film(page: Page, folder: Path) -> None:
    """One wrong item of the base: where each word looks, who looks at a patch, when it decided."""
    folders = str(lab.shipped(lab.TESTBED_B_MODEL)), str(lab.shipped(lab.TESTBED_B_PROBLEMS))
    model = ac.load_mllm(folders[0], dtype="float32", device="cpu", format="tags")
    problems = ac.load_problems(folders[1], limit=32)
    right = {
        mode: ac.answer_problems(model, problems, mode=mode, **LENGTH)["correct"]
        for mode in ("direct", "cot")
    }
    problem = problems[int((right["direct"] & ~right["cot"]).argmax())]
    record = explorer_record({"Base": model}, problem, **LENGTH)
    path = folder / "explorer.html"
    path.write_text(explorer_page(record, select(record, token=0, layer=2, head=0)))
    page.set_viewport_size({"width": 1160, "height": 1230})
    page.goto(path.as_uri())
    page.wait_for_selector("#explorer[data-ready]")
    frames, lasts = [], []

    def shoot(words: str, seconds: float) -> None:
        page.evaluate(CAPTION, words)
        page.wait_for_timeout(150)
        image = Image.open(BytesIO(page.screenshot())).convert("RGB")
        frames.append(image)
        lasts.append(round(1000 * seconds))

    tokens = page.locator(".ax-token")
    shoot("Asked at once it is right. Asked to think first it is wrong. Why?", 2.5)
    step = [at for at, number in enumerate(record.steps) if number == 1]
    for at in step[1:]:
        tokens.nth(at).click()
        shoot("Where did it look when it wrote each word?", 0.7)
    canvas = page.locator("canvas.ax-map").nth(1)
    box = canvas.bounding_box()
    assert box is not None
    looked = record.maps_of("attention", 0).weights[2, 0, step].mean(axis=0)
    row, col = divmod(int(looked.argmax()), record.shape[1])
    side = box["width"] / record.shape[1], box["height"] / record.shape[0]
    page.mouse.click(box["x"] + (col + 0.5) * side[0], box["y"] + (row + 0.5) * side[1])
    shoot("Click a patch: which words looked at it?", 2.5)
    page.keyboard.press("Escape")
    for number in range(1, max(record.steps) + 1):
        page.locator(".ax-pick").nth(number - 1).click()
        page.mouse.move(5, 5)
        shoot("When did it decide? The lower curve: forced to answer after each step.", 1.1)
    lasts[-1] = 2500
    target = IMAGES / "explorer.gif"
    for width in (960, 800, 640):
        size = width, round(width * frames[0].height / frames[0].width)
        small = [
            frame.resize(size, Image.Resampling.LANCZOS).quantize(96, dither=0) for frame in frames
        ]
        small[0].save(
            target, save_all=True, append_images=small[1:], duration=lasts, loop=0, optimize=True
        )
        if target.stat().st_size <= MOST:
            break


def report_picture(page: Page, folder: Path) -> None:
    """The first screen of a comparison of the base and its CoT-SFT."""
    problems = ac.load_problems(str(lab.shipped(lab.TESTBED_B_PROBLEMS)), limit=64)
    runs = []
    for name, folders in (("base", lab.TESTBED_B_MODEL), ("cot_sft", lab.TESTBED_B_COT_SFT)):
        model = ac.load_mllm(
            str(lab.shipped(folders)), dtype="float32", device="cpu", format="tags"
        )
        runs.append(folder / name)
        ac.measure_run(runs[-1], model, problems, **LENGTH)
    ac.compare_runs(
        *runs,
        folder / "both",
        names=("base", "cot_sft"),
        problems=lab.shipped(lab.TESTBED_B_PROBLEMS),
        models=False,
    )
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto((folder / "both" / "report.html").as_uri())
    image = Image.open(BytesIO(page.screenshot())).convert("RGB")
    image.save(IMAGES / "report.png", optimize=True)


def main(names: list[str]) -> None:
    """Draw the pictures named, or both."""
    with sync_playwright() as browsers, tempfile.TemporaryDirectory() as folder:
        browser = browsers.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        page = browser.new_page()
        for name, draw in (("explorer", explorer_film), ("report", report_picture)):
            if not names or name in names:
                draw(page, Path(folder))
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
