"""Bench `vista`: what prefix resampling yields, against plain samples of the same questions.

Not a bench of time: what is counted are hard questions that gain a right rationale, and the tokens
it took. The picture is noisier than any that the model has learned from, so that there are hard
questions at all.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from attcot_analysis.problems import Problem
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from attcot_analysis.train.finetune import FinetuneConfig
from attcot_lab.testbed.arrows import ArrowsConfig, generate_arrows
from attcot_lab.vista.draw import draw_round
from attcot_lab.vista.prefix import learn_both_orders
from attcot_lab.vista.sets import VistaConfig
from benchmarks.bench import Row, Scale, judged

CASES = {
    "picture first only, top 5": ("first", 5),
    "both orders, top 5": ("both", 5),
    "both orders, top 1": ("both", 1),
}
"""Which model writes, and from which rank on a token is critical (the paper: 5)."""


FULL = Scale(
    questions=192,  # asked
    samples=4,  # K per question
    continuations=4,  # J per wrong response
    lessons=384,  # problems that the second order is learned from
    steps=150,  # of that
    noise=400.0,  # of the pictures asked about; lessons have 240
)
QUICK = Scale(questions=4, samples=2, continuations=1, lessons=8, steps=1, noise=2000.0)


def run(*, progress: bool = False, quick: bool = False, device: str = "cpu") -> list[Row]:
    """Draw a first round with each model and threshold.

    Returns:
        Per case the shares of hard questions that gain a right rationale by mended prefixes and
        by as many plain samples, the difference with its interval and bar, and the tokens drawn.
    """
    scale = QUICK if quick else FULL
    base = shipped(TESTBED_MODEL)
    known = ArrowsConfig(noise=240.0)
    lessons = generate_arrows(scale.lessons, known, seed=1, split="train")
    asked = generate_arrows(
        scale.questions, replace(known, noise=scale.noise), seed=2, split="train"
    )
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        config = FinetuneConfig(steps=scale.steps, batch_size=16, learning_rate=1e-3)
        both = Path(scratch) / "both"
        learn_both_orders(base, lessons, both, config, progress=progress)
        for case, (writer, top) in CASES.items():
            drawing = VistaConfig(
                samples=scale.samples,
                continuations=scale.continuations,
                top=top,
                control=True,
                max_new_tokens=48,
            )
            run_folder = RunFolder.create(Path(scratch) / f"{writer}{top}", {"case": case})
            model = base if writer == "first" else both
            rows += _rows(case, model, asked, run_folder, drawing, progress)
    return rows


def _rows(
    case: str,
    model: Path,
    asked: Sequence[Problem],
    folder: RunFolder,
    config: VistaConfig,
    progress: bool,
) -> list[Row]:
    drawn = draw_round(model, asked, folder, 1, config, 0, progress)
    yields = drawn.yields()
    by_draw = yields[yields["success"] == "rationale"].set_index("draw")
    draws = ["continued", "plain", "continued - plain"]
    mended, plain, gain = by_draw.reindex(draws).to_dict("records")
    critical = drawn.critical["position"]
    return [
        Row(f"wrong responses, {case}", float(len(critical)), "count"),
        Row(
            f"share of them with a critical token, {case}", float(critical.notna().mean()), "share"
        ),
        Row(f"its place, median, {case}", float(critical.dropna().median()), "tokens"),
        Row(f"hard questions, {case}", float(gain["n"]), "count"),
        Row(f"gained by mended prefixes, {case}", float(mended["value"]), "share"),
        Row(f"gained by as many plain samples, {case}", float(plain["value"]), "share"),
        judged(
            f"low end of the difference, {case}",
            float(gain["low"]),
            "share",
            at_least=0.001,
        ),
        Row(f"difference, {case}", float(gain["value"]), "share"),
        Row(f"high end of it, {case}", float(gain["high"]), "share"),
        Row(f"tokens sampled, mended, {case}", float(mended["tokens"]), "tokens"),
        Row(f"tokens sampled, plain, {case}", float(plain["tokens"]), "tokens"),
    ]
