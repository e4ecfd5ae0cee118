"""A new user's afternoon: the wheel in an empty environment, own photos from check to report.

    python scripts/try_wheel.py build/try

Builds the wheel, installs it into a new environment outside the repository, makes photos with
questions as somebody who has never seen the source would write them, and runs only `attcot`: demo,
doctor, check-model, data check and convert, measure, finetune, compare, and the demo's run file.
Every command must succeed and leave what it promises; the times are printed at the end.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
import venv
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

REPOSITORY = Path(__file__).resolve().parent.parent
COLOURS = {"red": (205, 50, 45), "blue": (45, 85, 200), "green": (50, 150, 70)}
MODEL = "data/models/qwen2_5_vl-tiny"


def main() -> None:
    """Build, install, and walk the road."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="new folder for everything")
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True)
    times: dict[str, float] = {}

    def run(name: str, *command: str | Path, cwd: Path = folder) -> None:
        print(f"\n$ {' '.join(map(str, command))}", flush=True)
        start = time.perf_counter()
        hidden = ("PYTHONPATH", "VIRTUAL_ENV")
        env = {key: value for key, value in os.environ.items() if key not in hidden}
        subprocess.run([str(part) for part in command], cwd=cwd, env=env, check=True)
        times[name] = time.perf_counter() - start

    run("wheel", sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, REPOSITORY)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    constraints = REPOSITORY / "constraints.txt"
    package = f"attcot-analysis[train] @ {wheel.as_uri()}"
    run("install", python, "-m", "pip", "install", "-q", "--no-compile", "-c", constraints, package)

    attcot = python.with_name("attcot")
    run("demo", attcot, "demo", "try")
    there = folder / "try"
    run("doctor", attcot, "doctor", cwd=there)
    run("check-model", attcot, "check-model", MODEL, cwd=there)
    records = write_photos(there / "kitchen", 20)
    run("data check", attcot, "data", "check", records, cwd=there)
    run("data convert", attcot, "data", "convert", records, "--out", "mine", cwd=there)
    run("measure", attcot, "measure", MODEL, "mine", "--out", "runs/base", "--maps", cwd=there)
    run("report", attcot, "report", "runs/base", cwd=there)
    for arm in ("cot_sft", "att_cot"):
        trained = f"models/{arm}"
        sizes = ("--steps", "20", "--batch-size", "8")
        run(
            f"finetune {arm}", attcot, "finetune", MODEL, "mine", "--arm", arm, *sizes,
            "--out", trained, cwd=there,
        )  # fmt: skip
        run(
            f"measure {arm}", attcot, "measure", trained, "mine", "--maps",
            "--out", f"runs/{arm}", cwd=there,
        )  # fmt: skip
    names = ("--names", "cot_sft", "att_cot")
    run(
        "compare", attcot, "compare", "runs/cot_sft", "runs/att_cot", *names,
        "--out", "runs/both", cwd=there,
    )  # fmt: skip
    run("demo.yaml", attcot, "run", "demo.yaml", cwd=there)
    for page in ("runs/base/report.html", "runs/both/report.html"):
        if not (there / page).stat().st_size:
            raise SystemExit(f"{page} is empty")
    print("\nseconds:")
    for name, seconds in times.items():
        print(f"  {name:18s} {seconds:7.1f}")


def write_photos(folder: Path, number: int) -> Path:
    """Photos of one cup each, of many sizes and one of them turned, with a line of JSON each."""
    drawn = random.Random(0)
    folder.mkdir()
    lines = []
    for at in range(number):
        width, height = drawn.randrange(160, 420), drawn.randrange(160, 420)
        picture = Image.effect_noise((width, height), 60).convert("RGB")
        picture = picture.filter(ImageFilter.GaussianBlur(2))
        colour = drawn.choice(list(COLOURS))
        x, y = drawn.randrange(width // 2), drawn.randrange(height // 2)
        box = (x, y, x + width // 3, y + height // 3)
        ImageDraw.Draw(picture).rounded_rectangle(box, 8, fill=COLOURS[colour])
        name = f"IMG_{at:04d}.jpg"
        picture.save(folder / name, quality=85)
        if at == 3:
            exif = Image.Exif()
            exif[0x0112] = 6
            picture.rotate(90, expand=True).save(folder / name, exif=exif)
        lines.append(
            {
                "id": f"cup-{at}",
                "image": name,
                "question": "What colour is the cup?",
                "answer": colour,
                "candidates": list(COLOURS),
                "habitual": "red",
                "steps": [
                    {"text": "There is one cup in the picture.", "boxes": [list(box)]},
                    {"text": f"The cup is {colour}."},
                ],
            }
        )
    path = folder / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path


if __name__ == "__main__":
    main()
