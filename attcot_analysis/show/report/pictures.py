"""The report's pictures: an item's versions as data, with evidence and edits outlined."""

import base64
from collections.abc import Sequence
from io import BytesIO

from PIL import Image

from attcot_analysis.problems import Box, Problem
from attcot_analysis.show.markup import Markup, el
from attcot_analysis.show.overlay import png_bytes
from attcot_analysis.show.style import BOX_COLOR

_LARGEST = 512
_EXACT = 256  # up to this side a picture is kept pixel by pixel
_SMALL = 320


def item_picture(problem: Problem, kind: str, alt: str) -> Markup:
    """Write one version of an item's picture.

    Numbered boxes are the evidence of each step (on the original), those without a number that of
    the item as a whole, dashed ones what an edit has
    changed. Large pictures are shrunk and compressed.

    Args:
        problem: The item.
        kind: ``"original"``, ``"twin"`` or ``"control"``.
        alt: What it is, for those who do not see it; what the boxes are is added.
    """
    edit = {"twin": problem.twin, "control": problem.control}.get(kind)
    image = problem.image if edit is None else edit.image
    changed = () if edit is None else edit.boxes
    steps = problem.steps if edit is None else ()
    evidence = [(box, str(k)) for k, step in enumerate(steps, start=1) for box in step.boxes]
    evidence += [(box, "") for box in problem.evidence if edit is None]
    width, height = image.size
    line = max(image.size) / 90
    shapes = [_rectangle(box, line, dashed=True) for box in changed]
    for box, name in evidence:
        shapes.append(_rectangle(box, line, dashed=False))
        if name:
            shapes.append(_number(name, box, max(image.size) / 11))
    marks = el("svg", shapes, viewBox=f"0 0 {width} {height}", aria_hidden="true")
    alt += "; numbered boxes: evidence of each step" if any(name for _, name in evidence) else ""
    alt += "; boxes without a number: evidence" if any(not name for _, name in evidence) else ""
    alt += "; dashed box: edited pixels" if changed else ""
    return el(
        "div",
        el("img", src=picture_url(image), alt=alt, width=width, height=height),
        marks,
        class_="picture small" if max(image.size) < _SMALL else "picture",
    )


def picture_url(image: Image.Image) -> str:
    """A picture as ``data:`` URL: small ones as PNG, others as JPEG of at most 512 pixels."""
    if max(image.size) <= _EXACT:
        data, kind = png_bytes(image, compress_level=9), "png"
    else:
        shown = image.convert("RGB")
        shown.thumbnail((_LARGEST, _LARGEST))
        buffer = BytesIO()
        shown.save(buffer, format="JPEG", quality=85, optimize=True)
        data, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _number(name: str, box: Sequence[float], size: float) -> Markup:
    return el(
        "text",
        name,
        x=f"{box[0] + size * 0.3:g}",
        y=f"{box[1] + size:g}",
        style=f"font:700 {size:g}px sans-serif;fill:#fff;stroke:#101418;"
        f"stroke-width:{size / 5:g}px;paint-order:stroke",
    )


def _rectangle(box: Box, line: float, *, dashed: bool) -> Markup:
    x0, y0, x1, y1 = box
    place = {
        "x": f"{x0 + line:g}",
        "y": f"{y0 + line:g}",
        "width": f"{max(x1 - x0 - 2 * line, line):g}",
        "height": f"{max(y1 - y0 - 2 * line, line):g}",
        "fill": "none",
    }
    dash = f";stroke-dasharray:{3 * line:g} {2 * line:g}" if dashed else ""
    return el(
        "g",
        el("rect", style=f"stroke:#101418;stroke-width:{2 * line:g}", **place),
        el("rect", style=f"stroke:{BOX_COLOR};stroke-width:{line:g}{dash}", **place),
    )
