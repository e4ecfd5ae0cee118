"""Items of a run for the report's item browser, made of the run's tables."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO

import pandas as pd
from PIL import Image

from attcot_analysis.errors import ShowError
from attcot_analysis.measures.commitment import commitment_items
from attcot_analysis.problems import Box, Problem, parse_response
from attcot_analysis.show.heatmaps import png_bytes
from attcot_analysis.show.markup import Markup, el
from attcot_analysis.show.style import (
    BOX_COLOR,
    arm_label,
    arm_style,
    format_number,
    order_arms,
    page_color,
)

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


VERSIONS = {
    "original": "Original picture",
    "twin": "Twin: the answer changes",
    "control": "Control edit: the answer must stay",
}

"""The pictures of an item, and what is written under them."""

_ON = {"twin": "On the twin", "control": "On the control edit", "blank": "On a blank picture"}

_NOBODY = "no answer"

_HOW = (
    "Forced to answer now: the most probable candidate, and its probability, if the model had to "
    "answer after that step. p(final): probability of the answer that it ends with. Visual mass: "
    "share of the step's attention on the picture, mean over rows, layers and heads."
)

_RIGHT, _WRONG = "\N{CHECK MARK}", "\N{BALLOT X}"


@dataclass(frozen=True)
class ItemStep:
    """What is known of one rationale step of one arm.

    Attributes:
        text: The step; empty before the first.
        best: The candidate that would be most probable if the answer were forced after it.
        p_best: Its probability.
        p_final: Probability of the answer that is most probable after the last step.
        mass: Mean visual mass of the step's rows; NaN before the first step or if not measured.
    """

    text: str
    best: str
    p_best: float
    p_final: float
    mass: float = float("nan")


@dataclass(frozen=True)
class ItemArm:
    """What one arm did with one item.

    Attributes:
        text: Its response.
        answer: The candidate it gave; ``None`` if none can be told.
        steps: Before the first step and after each; empty without a rationale.
        settled: From which step on the final answer stays the most probable; ``None`` if not
            measured.
        edits: What it answered on other pictures (``"twin"``, ``"control"``, ``"blank"``).
        seed: Its training seed, said if the arm has several.
    """

    text: str
    answer: str | None
    steps: tuple[ItemStep, ...] = ()
    settled: int | None = None
    edits: Mapping[str, str | None] = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True)
class ReportItem:
    """One item of the report.

    Attributes:
        problem: The item.
        arms: What every arm did with it.
        note: Why it is shown, one sentence; may be empty.

    Raises:
        ShowError: If an arm answers on a picture that the item has not.
    """

    problem: Problem
    arms: Mapping[str, ItemArm] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse answers that would not be shown."""
        unknown = sorted({kind for arm in self.arms.values() for kind in arm.edits} - set(_ON))
        if unknown:
            raise ShowError(
                f"Answers are given for the picture(s) {unknown}; expected some of {list(_ON)}."
            )

    def right(self, arm: str) -> bool:
        """Whether an arm's answer is the right one."""
        return arm in self.arms and self.arms[arm].answer == self.problem.answer


def item_browser(items: Sequence[ReportItem], pair: tuple[str, str] | None) -> Markup:
    """Write items to step through: one is shown at a time, all where scripts do not run.

    Args:
        items: In the order in which they are stepped through.
        pair: The two arms by whose answers the items are sorted into groups.
    """
    groups = _groups(pair)
    of = [_group(item, pair) for item in items]
    filters = [el("option", f"All {len(items)} items", value="")]
    if "right" in groups and pair is not None:
        differing = sum(kind in ("first", "second") for kind in of)
        filters.append(
            el(
                "option",
                f"Only one is right ({differing})",
                value="first second",
                disabled=not differing,
            )
        )
    filters += [
        el("option", f"{title} ({of.count(kind)})", value=kind, disabled=kind not in of)
        for kind, title in groups.items()
    ]
    names = [
        el("option", f"{number}. {item.problem.id}{_marks(item)}", value=number - 1)
        for number, item in enumerate(items, start=1)
    ]
    tools = el(
        "div",
        el("label", "Show ", el("select", filters, name="filter")),
        el(
            "span",
            el("button", "\N{LEFTWARDS ARROW} Previous", type="button", name="back"),
            el("button", "Next \N{RIGHTWARDS ARROW}", type="button", name="on"),
            class_="buttons",
        ),
        el("label", "Item ", el("select", names, name="item")),
        el("output", "", aria_live="polite"),
        class_="tools",
        role="group",
        aria_label="Step through the items",
        hidden=True,
    )
    written = [
        _item(item, number, kind) for number, (item, kind) in enumerate(zip(items, of, strict=True))
    ]
    return el("div", el("p", _HOW, class_="note"), tools, written, class_="browser")


def _groups(pair: tuple[str, str] | None) -> dict[str, str]:
    if pair is None:
        return {}
    first, second = map(arm_label, pair)
    return {
        "first": f"Only {first} is right",
        "second": f"Only {second} is right",
        "right": "Both are right",
        "wrong": "Both are wrong",
    }


def _group(item: ReportItem, pair: tuple[str, str] | None) -> str:
    if pair is None:
        return ""
    first, second = (item.right(arm) for arm in pair)
    if first == second:
        return "right" if first else "wrong"
    return "first" if first else "second"


def _marks(item: ReportItem) -> str:
    marks = [
        f"{arm_label(arm)} {_RIGHT if item.right(arm) else _WRONG}" for arm in order_arms(item.arms)
    ]
    return f": {', '.join(marks)}" if marks else ""


def _item(item: ReportItem, number: int, kind: str) -> Markup:
    problem = item.problem
    named = f"Candidates: {', '.join(problem.candidates)}."
    facts = [named if problem.candidates else "An open question: no answer is forced."]
    if problem.habitual is not None:
        facts.append(f"Habitual answer: {problem.habitual}.")
    pictures = [_version(item, "original")]
    pictures += [
        _version(item, edit.kind) for edit in (problem.twin, problem.control) if edit is not None
    ]
    return el(
        "article",
        el("h3", problem.question, " ", el("code", problem.id)),
        el("p", item.note, class_="note") if item.note else None,
        el("p", " ".join(facts), class_="note"),
        el("div", pictures, class_="versions"),
        el("div", [_items_html_arm(item, arm) for arm in order_arms(item.arms)], class_="runs"),
        class_="item",
        id=f"item-{number}",
        data_kind=kind,
        tabindex=-1,
    )


def _version(item: ReportItem, kind: str) -> Markup:
    problem = item.problem
    edit = {"twin": problem.twin, "control": problem.control}.get(kind)
    right = problem.answer if edit is None else edit.answer
    said = []
    for arm in order_arms(item.arms):
        done = item.arms[arm]
        if edit is None or kind in done.edits:
            given = done.answer if edit is None else done.edits[kind]
            said.append(el("li", *_said(arm, given, right, problem.habitual)))
    return el(
        "div",
        item_picture(problem, kind, f"{VERSIONS[kind]} of item {problem.id}"),
        el("p", f"{VERSIONS[kind]}. Right answer: ", el("b", right), class_="expected"),
        el("ul", said, class_="said"),
        class_="version",
    )


def _said(arm: str, given: str | None, right: str, habitual: str | None) -> list[object]:
    if given is None:
        mark, words = "worse", f"\N{EN DASH} {_NOBODY}"
    elif given == right:
        mark, words = "better", f"{_RIGHT} {given}"
    else:
        mark, words = "worse", f"{_WRONG} {given}"
        words += " (habitual)" if given == habitual else ""
    return [_swatch(arm), f"{arm_label(arm)}: ", el("span", words, class_=mark)]


def _items_html_arm(item: ReportItem, arm: str) -> Markup:
    done = item.arms[arm]
    seed = f" (seed {done.seed})" if done.seed is not None else ""
    parts: list[Markup] = [el("h4", _swatch(arm), f"{arm_label(arm)}{seed}")]
    if done.steps:
        parts += [el("p", _settled(done), class_="settled"), _items_html_steps(done, arm)]
    if "blank" in done.edits:
        given = done.edits["blank"]
        parts.append(el("p", f"{_ON['blank']}: {given or _NOBODY}.", class_="note"))
    parts.append(
        el("details", el("summary", "The response as written"), el("pre", done.text))
        if done.steps
        else el("pre", done.text)
    )
    return el("section", parts, class_="run", style=f"--arm:{page_color(arm_style(arm).color)}")


def _settled(done: ItemArm) -> list[object]:
    last = len(done.steps) - 1
    if done.settled is None:
        return ["Where its answer settles was not measured."]
    final = el("b", done.steps[-1].best)
    if done.settled == 0:
        return ["Settled on ", final, " before the first step."]
    return ["Settled on ", final, f" after step {done.settled} of {last}."]


def _items_html_steps(done: ItemArm, arm: str) -> Markup:
    looked = any(step.mass == step.mass for step in done.steps)
    heads = ["Rationale", "Forced to answer now", "p(final)"] + (["Visual mass"] if looked else [])
    rows = []
    for number, step in enumerate(done.steps):
        text = _numbered(number, step.text) if number else "Before the first step"
        share = min(max(step.p_final, 0.0), 1.0)
        bar = el("span", class_="bar", style=f"--p:{share:.3f}", aria_hidden="true")
        here = number == done.settled
        rows.append(
            el(
                "tr",
                el("th", text, scope="row"),
                el(
                    "td",
                    step.best,
                    " ",
                    el("span", format_number(step.p_best, digits=2), class_="n"),
                    el("span", "settled", class_="here") if here else None,
                ),
                el("td", bar, format_number(step.p_final, digits=2), class_="value"),
                el("td", format_number(step.mass, digits=2), class_="value") if looked else None,
                class_="settled" if here else None,
            )
        )
    table = el(
        "table",
        el("thead", el("tr", [el("th", head, scope="col") for head in heads])),
        el("tbody", rows),
    )
    name = f"Steps of {arm_label(arm)}"
    return el("div", table, class_="scroll", tabindex=0, role="region", aria_label=name)


def _numbered(number: int, text: str) -> str:
    """The step with its number, which most models write themselves."""
    own = text[:1].isdigit() or text[:4].lower() == "step"
    return text if own else f"{number}. {text}"


def _swatch(arm: str) -> Markup:
    return el("span", class_="swatch", style=f"--arm:{page_color(arm_style(arm).color)}")


Tables = Mapping[str, Mapping[int, Mapping[str, pd.DataFrame]]]

"""arm → seed → name → table, as `attcot_analysis.runs.measure.measure_all` makes them."""


def report_items(
    tables: Tables, problems: Sequence[Problem], pair: tuple[str, str], n: int
) -> list[ReportItem]:
    """Choose items and gather what every arm did with them.

    The first half are those on which the two arms of the pair differ in most seeds, the others
    simply the first ones; they keep the order of the items. Of an arm with several seeds its first
    seed is shown.

    Args:
        tables: What was measured.
        problems: The items.
        pair: The two arms that are compared.
        n: How many items.
    """
    before, after = map(arm_label, pair)
    differing = differing_items(tables, problems, pair)[: (n + 1) // 2]
    rest = [problem for problem in problems if problem not in differing]
    chosen = {problem.id for problem in (*differing, *rest[: n - len(differing)])}
    told = {problem.id for problem in differing}
    items = []
    for problem in problems:
        if problem.id in chosen:
            note = "One of the first items, not chosen for what it shows."
            if problem.id in told:
                note = (
                    f"Chosen because {before} and {after} differ on it: it shows what differs, "
                    "not what is typical."
                )
            arms = {arm: _arm(seeds, problem) for arm, seeds in tables.items()}
            items.append(ReportItem(problem, arms, note))
    return items


def example_problems(
    tables: Tables, problems: Sequence[Problem], pair: tuple[str, str], n: int
) -> list[Problem]:
    """Items to look at closely: those on which the pair differs most often, then the first."""
    differing = differing_items(tables, problems, pair)
    return [*differing, *(problem for problem in problems if problem not in differing)][:n]


def differing_items(
    tables: Tables, problems: Sequence[Problem], pair: tuple[str, str]
) -> list[Problem]:
    """Items on which one arm is right more often than the other, largest difference first."""

    def right(arm: str) -> pd.Series:
        answers = pd.concat([kinds["answers_cot"] for kinds in tables[arm].values()])
        return answers.groupby("item")["correct"].mean()

    gap = (right(pair[1]) - right(pair[0])).abs()
    found = [problem for problem in problems if gap.get(problem.id, 0.0) > 0]
    return sorted(found, key=lambda problem: -float(gap[problem.id]))


def _arm(seeds: Mapping[int, Mapping[str, pd.DataFrame]], problem: Problem) -> ItemArm:
    seed = min(seeds)
    found = {name: table[table["item"] == problem.id] for name, table in seeds[seed].items()}
    said = found["answers_cot"].iloc[0]
    steps, settled = _steps(found, problem, str(said["text"]))
    edits = found["dependence"]
    edits = edits[edits["rationale"] == "regenerated"]
    after = {
        str(kind): _candidate(answer)
        for kind, answer in zip(edits["edit"], edits["answer_after"], strict=True)
        if kind in ("twin", "control", "blank")
    }
    return ItemArm(
        text=str(said["text"]),
        answer=_candidate(said["answer"]),
        steps=steps,
        settled=settled,
        edits=after,
        seed=seed if len(seeds) > 1 else None,
    )


def _steps(
    found: Mapping[str, pd.DataFrame], problem: Problem, text: str
) -> tuple[tuple[ItemStep, ...], int | None]:
    forced = found["commitment"]
    forced = forced[forced["control"] == "rationale"]
    if forced.empty:
        return (), None
    item = commitment_items(forced, [problem]).iloc[0]
    looked = found["access"].groupby("step")["mass"].mean()
    texts = ("", *parse_response(text).step_texts)
    steps = []
    for k, part in forced.groupby("step", sort=True):
        number = int(str(k))
        best = part.iloc[int(part["p"].to_numpy().argmax())]
        steps.append(
            ItemStep(
                text=texts[number] if number < len(texts) else "",
                best=str(best["candidate"]),
                p_best=float(best["p"]),
                p_final=float(part.loc[part["candidate"] == item["final"], "p"].iloc[0]),
                mass=float(looked.get(number, float("nan"))),
            )
        )
    return tuple(steps), int(item["commitment_step"])


def _candidate(answer: object) -> str | None:
    return answer if isinstance(answer, str) else None
