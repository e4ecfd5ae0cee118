"""Make the gallery of docs/counterfactuals.md: every edit on three photos, with what it leaves.

Usage: python scripts/edit_gallery.py FOLDER

FOLDER holds astronaut.png, coffee.png and chelsea.png, as scikit-image ships them in skimage/data.
"""

import sys
from math import isnan
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from attcot_analysis.problems import Problem
from attcot_analysis.problems.edits import EDIT_KINDS, EditedImage, edited_images
from attcot_analysis.problems.fills import FILLS
from attcot_analysis.problems.objects import PictureEdit, edit

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "counterfactuals.md"
MARKS = ("<!-- gallery -->\n", "<!-- end of gallery -->\n")
PHOTOS = {
    "astronaut": ("What stands beside her?", ("a shuttle", "a plant"), (354, 0, 474, 288)),
    "coffee": ("What lies on the saucer?", ("a spoon", "a fork"), (320, 215, 412, 332)),
    "chelsea": ("Which animal is it?", ("a cat", "a dog"), (133, 80, 214, 152)),
}
"""Photo → question, candidates (the first is right), evidence box."""
WIDTH, HEIGHT, COLUMNS = 150, 116, 6
"""Of a picture on a sheet with its name below, and how many stand side by side."""


def edits_of(problem: Problem, others: list[Problem]) -> dict[str, PictureEdit | None]:
    """Every edit by name; ``None`` where the photo does not allow it."""
    found: dict[str, PictureEdit | None] = {}
    for fill in FILLS:
        found[f"fill, {fill}"] = edit(problem, "fill", fill=fill)
    found["remove"] = edit(problem, "remove")
    found["recolour, blue"] = edit(problem, "recolour", colour="blue")
    x0, _, x1, _ = (int(side) for side in problem.evidence[0])
    right = x0 + (x1 - x0) // 2 < problem.size[0] // 2
    by = (x1 - x0 if right else x0 - x1, 0)
    found["move"] = edit(problem, "move", by=by)
    found["paste"] = edit(problem, "paste", source=others[0].image)
    for kind in EDIT_KINDS:
        if kind not in ("twin", "control", "occlude"):
            one: list[EditedImage] = edited_images([problem, *others], kind, only=[0])
            found[kind] = PictureEdit(problem, one[0]) if one else None
    return found


def sheet(problem: Problem, edits: dict[str, PictureEdit | None]) -> Image.Image:
    """The photo with its evidence box, and every edit of it, each with its name."""
    own = problem.image.copy()
    ImageDraw.Draw(own).rectangle(problem.evidence[0], outline="yellow", width=4)
    shown = {"original": own} | {name: one.edited.image for name, one in edits.items() if one}
    rows = -(-len(shown) // COLUMNS)
    page = Image.new("RGB", (COLUMNS * WIDTH, rows * HEIGHT), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(11)
    for at, (name, picture) in enumerate(shown.items()):
        x, y = at % COLUMNS * WIDTH, at // COLUMNS * HEIGHT
        small = picture.copy()
        small.thumbnail((WIDTH - 4, HEIGHT - 18))
        page.paste(small, (x, y))
        pen.text((x, y + HEIGHT - 17), name, fill="black", font=font)
    return page


def cell(one: PictureEdit | None) -> str:
    """Edges left, colours left, patches out of range, as percent; why there are none."""
    if one is None:
        return "refused"
    left = one.residual
    if left is None:
        return "another size"
    values = (left.edges, left.colours, left.unnatural)
    return " / ".join("–" if isnan(value) else f"{100 * value:.0f}" for value in values)


def main(folder: str) -> None:
    """Write the sheets and the table."""
    problems = [
        Problem(
            name,
            Image.open(Path(folder) / f"{name}.png").convert("RGB"),
            question,
            candidates,
            candidates[0],
            evidence=(tuple(map(float, box)),),
        )
        for name, (question, candidates, box) in PHOTOS.items()
    ]
    found = {}
    (DOCS / "images/edits").mkdir(parents=True, exist_ok=True)
    for at, problem in enumerate(problems):
        found[problem.id] = edits_of(problem, problems[at + 1 :] + problems[:at])
        path = DOCS / "images/edits" / f"{problem.id}.webp"
        sheet(problem, found[problem.id]).save(path, quality=60, method=6)
    lines = [f"| Edit | {' | '.join(found)} |", f"|---|{'---|' * len(found)}"]
    for name in next(iter(found.values())):
        lines.append(f"| {name} | {' | '.join(cell(one[name]) for one in found.values())} |")
    pictures = [f"![Edits of {name}](images/edits/{name}.webp)" for name in found]
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    made = "\n\n".join([*pictures, "\n".join(lines)])
    PAGE.write_text(f"{before}{MARKS[0]}\n{made}\n\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
