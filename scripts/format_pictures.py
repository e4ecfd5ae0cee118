"""The pictures of docs/formats.md: a response in each format, as it is cut, as SVG."""

import re
import textwrap
from html import escape
from pathlib import Path

import yaml

from attcot_analysis.problems.formats import FORMATS
from attcot_analysis.problems.response import ParsedResponse, parse_response

EXAMPLES = Path(__file__).parents[1] / "tests" / "formats"
INK, GREY, WHITE = "#1f2933", "#7b8794", "#ffffff"
STEPS = ("#d6e6f7", "#e8eef3")
ANSWER = "#f7d9c4"
WIDTH, LINE, SIGN = 720, 18, 7.2
"""Pixels of the picture, of a line and of a letter of the monospaced font."""


def picture(parsed: ParsedResponse, opening: str = "") -> str:
    """A response with its steps, tags and answer in boxes of different colours.

    Args:
        parsed: The response.
        opening: What the prompt ended in, shown in grey before it.
    """
    rows: list[tuple[str, str, str]] = [("prompt", opening, WHITE)] if opening else []
    for start, stop, label in _parts(parsed):
        color = WHITE
        if label.startswith("step"):
            color = STEPS[int(label.split()[1]) % 2]
        elif label == "answer":
            color = ANSWER
        rows.append((label, parsed.text[start:stop].strip(), color))
    drawn, y = [], 6
    for label, text, color in rows:
        lines = [
            part
            for line in text.split("\n")
            for part in textwrap.wrap(line, 78, drop_whitespace=False) or [""]
        ]
        height = LINE * len(lines) + 4
        drawn.append(
            f'<rect x="84" y="{y}" width="{WIDTH - 90}" height="{height}" fill="{color}"/>'
        )
        drawn.append(f'<text x="6" y="{y + 14}" fill="{GREY}">{label}</text>')
        ink = INK if color != WHITE else GREY
        for number, line in enumerate(lines):
            drawn.append(
                f'<text x="90" y="{y + 14 + LINE * number}" fill="{ink}" xml:space="preserve">'
                f"{escape(line)}</text>"
            )
        y += height + 3
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 4}" width="{WIDTH}" '
        f'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{y + 4}" fill="{WHITE}"/>\n'
        + "\n".join(drawn)
        + "\n</svg>\n"
    )


def _parts(parsed: ParsedResponse) -> list[tuple[int, int, str]]:
    """The response from its beginning to its end, in parts with a name each."""
    named = [(a, b, f"step {at}") for at, (a, b) in enumerate(parsed.steps, start=1)]
    if parsed.answer_range is not None:
        named.append((*parsed.answer_range, "answer"))
    parts, at = [], 0
    for start, stop, label in sorted(named):
        if parsed.text[at:start].strip():
            parts.append((at, start, "between" if at else "before"))
        parts.append((start, stop, label))
        at = stop
    if parsed.text[at:].strip():
        parts.append((at, len(parsed.text), "behind"))
    return parts


def draw_all(folder: Path) -> None:
    """Draw one picture per format into a folder, as NAME.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, svg in drawn().items():
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")


def drawn() -> dict[str, str]:
    """The pictures, by format, of the first response in each file of tests/formats."""
    found = {}
    for name, form in FORMATS.items():
        file = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8"))
        first = file["responses"][0]
        text, opened = re.sub("[▸■«»]", "", first["text"]), first.get("opened", False)
        opening = form.begin.strip() if opened else ""
        found[name] = picture(parse_response(text, form, opened=opened), opening)
    return found
