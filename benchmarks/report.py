"""Bench `report`: memory of a run's page over large pictures, which are read when they are drawn.

A testbed model is measured on problems whose pictures are blown up; each page is then written in a
process of its own, see `peak_memory`.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PIL import Image

from attcot_analysis.models import load_mllm
from attcot_analysis.problems import load_problems, save_problems
from attcot_analysis.runs.measure import measure_run
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from attcot_analysis.show.report.compare import report_run
from attcot_lab.testbed.arrows import generate_arrows
from benchmarks.bench import Peak, Row, Scale, judged, peak_memory

MIB = 2**20

FULL = Scale(
    items=60,
    fewer=30,  # More than a page shows one by one, and than are kept from one look to the next.
    edge=2400,  # of a picture, in pixels
)
QUICK = Scale(items=6, fewer=3, edge=200)


def run(*, progress: bool = False, quick: bool = False, device: str = "cpu") -> list[Row]:
    """Measure on a testbed model; on the CPU whatever the device.

    Returns:
        The page's memory over that of all pictures, and over that of half as many, with bars.
    """
    scale = QUICK if quick else FULL
    with tempfile.TemporaryDirectory() as place:
        found = {n: _page(Path(place) / str(n), n, scale.edge) for n in (scale.fewer, scale.items)}
    most, half = found[scale.items], found[scale.fewer]
    pictures = scale.items * 3 * scale.edge**2
    name = f"{scale.items} pictures of {scale.edge} x {scale.edge}"
    return [
        judged(
            f"memory of the page alone / all pictures decoded, {name}",
            most.added / pictures,
            "x",
            at_most=0.5,
        ),
        judged(
            f"peak memory, {scale.items} / {scale.fewer} pictures of {scale.edge} x {scale.edge}",
            most.peak / half.peak,
            "x",
            at_most=1.1,
        ),
        Row(f"memory of the page alone, {name}", most.added / MIB, "MiB"),
        Row(f"all pictures decoded, {name}", pictures / MIB, "MiB"),
    ]


def _page(folder: Path, items: int, edge: int) -> Peak:
    """The memory that the page of a run on so many problems takes."""
    large = [
        replace(
            problem,
            image=problem.image.resize((edge, edge), Image.Resampling.NEAREST),
            twin=None,
            control=None,
            evidence=(),
            steps=tuple(replace(step, boxes=()) for step in problem.steps),
        )
        for problem in generate_arrows(items, seed=0)
    ]
    problems = save_problems(large, folder / "problems")
    del large
    mllm = load_mllm(shipped(TESTBED_MODEL), device="cpu", max_pixels=9216)
    shown = load_problems(problems, keep_pictures=False)
    measure_run(folder / "run", mllm, shown, ("answers", "direct"), max_new_tokens=48, batch_size=4)
    return peak_memory(__name__, "prepare", {"run": str(folder / "run"), "problems": str(problems)})


def prepare(run: str, problems: str) -> Callable[[], object]:
    """What is returned writes the page."""
    return lambda: report_run(run, problems=problems)
