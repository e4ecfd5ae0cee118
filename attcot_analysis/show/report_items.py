"""The report's example items: picture, twin and control, with every arm's response."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from attcot_analysis.errors import ShowError
from attcot_analysis.problems import Box, Problem, parse_response
from attcot_analysis.show.markup import Markup, el
from attcot_analysis.show.overlay import png_bytes
from attcot_analysis.show.style import BOX_COLOR, arm_style, order_arms

_VERSIONS = {
    "original": "Original picture",
    "twin": "Twin: the answer changes",
    "control": "Control edit: the answer must stay",
}
_LARGEST = 640


@dataclass(frozen=True)
class ExampleItem:
    """One item of the report with what the arms said about it.

    Attributes:
        problem: The item.
        responses: Response text by picture (``"original"``, ``"twin"``, ``"control"``) and arm.
        note: Why it is shown, one sentence; may be empty.

    Raises:
        ShowError: If responses are given for another kind of picture.
    """

    problem: Problem
    responses: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse responses that would not be shown."""
        unknown = sorted(set(self.responses) - set(_VERSIONS))
        if unknown:
            raise ShowError(
                f"Responses are given for the picture(s) {unknown}; expected some of "
                f"{list(_VERSIONS)}."
            )


def item_section(item: ExampleItem) -> Markup:
    """Write one example item."""
    problem = item.problem
    versions: list[tuple[str, Image.Image, str, Sequence[Box]]] = [
        ("original", problem.image, problem.answer, ())
    ]
    for edit in (problem.twin, problem.control):
        if edit is not None:
            versions.append((edit.kind, edit.image, edit.answer, edit.boxes))
    facts = [f"Candidates: {', '.join(problem.candidates)}."]
    if problem.habitual is not None:
        facts.append(f"Habitual answer: {problem.habitual}.")
    return el(
        "article",
        el("h3", problem.question, " ", el("code", problem.id)),
        el("p", item.note) if item.note else None,
        el("p", " ".join(facts), class_="note"),
        el("div", [_version(item, *version) for version in versions], class_="versions"),
        class_="item",
    )


def _version(
    item: ExampleItem, kind: str, image: Image.Image, answer: str, changed: Sequence[Box]
) -> Markup:
    steps = item.problem.steps if kind == "original" else ()
    evidence = [(box, str(k)) for k, step in enumerate(steps, start=1) for box in step.boxes]
    said = item.responses.get(kind, {})
    return el(
        "div",
        _picture(image, evidence, changed, f"{_VERSIONS[kind]} of item {item.problem.id}"),
        el("p", f"{_VERSIONS[kind]}. Right answer: ", el("b", answer), class_="expected"),
        [
            _response(arm, said[arm], answer, item.problem.habitual, kind == "original")
            for arm in order_arms(said)
        ],
        class_="version",
    )


def _response(arm: str, text: str, right: str, habitual: str | None, opened: bool) -> Markup:
    style = arm_style(arm)
    given = parse_response(text).answer
    if given is None:
        mark, words = "worse", "\N{EN DASH} no answer"
    elif given == right:
        mark, words = "better", f"\N{CHECK MARK} {given}"
    else:
        mark, words = "worse", f"\N{BALLOT X} {given}"
        words += " (habitual)" if given == habitual else ""
    return el(
        "details",
        el(
            "summary",
            el("span", class_="swatch", style=f"--arm:{style.color}"),
            f"{style.label}: ",
            el("span", words, class_=mark),
        ),
        el("pre", text),
        open=opened,
    )


def _picture(
    image: Image.Image, evidence: Sequence[tuple[Box, str]], changed: Sequence[Box], alt: str
) -> Markup:
    width, height = image.size
    shown = image
    if max(image.size) > _LARGEST:
        shown = image.copy()
        shown.thumbnail((_LARGEST, _LARGEST))
    data = base64.b64encode(png_bytes(shown, compress_level=9)).decode()
    line = max(image.size) / 90
    shapes = [_rectangle(box, line, dashed=True) for box in changed]
    for (x0, y0, x1, y1), name in evidence:
        shapes.append(_rectangle((x0, y0, x1, y1), line, dashed=False))
        size = max(image.size) / 11
        shapes.append(
            el(
                "text",
                name,
                x=f"{x0 + size * 0.3:g}",
                y=f"{y0 + size:g}",
                style=f"font:700 {size:g}px sans-serif;fill:#fff;stroke:#101418;"
                f"stroke-width:{size / 5:g}px;paint-order:stroke",
            )
        )
    marks = el("svg", shapes, viewBox=f"0 0 {width} {height}", aria_hidden="true")
    boxes = "; numbered boxes: evidence of each step" if evidence else ""
    boxes += "; dashed box: edited pixels" if changed else ""
    return el(
        "div",
        el("img", src=f"data:image/png;base64,{data}", alt=alt + boxes, width=width, height=height),
        marks,
        class_="picture small" if max(image.size) < 320 else "picture",
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
