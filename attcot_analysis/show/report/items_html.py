"""The report's item browser: picture, twin and control, what every arm said, where it settled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from attcot_analysis.errors import ShowError
from attcot_analysis.problems import Problem
from attcot_analysis.show.markup import Markup, el
from attcot_analysis.show.report.pictures import item_picture
from attcot_analysis.show.style import (
    arm_label,
    arm_style,
    format_number,
    order_arms,
    page_color,
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
        el("div", [_arm(item, arm) for arm in order_arms(item.arms)], class_="runs"),
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


def _arm(item: ReportItem, arm: str) -> Markup:
    done = item.arms[arm]
    seed = f" (seed {done.seed})" if done.seed is not None else ""
    parts: list[Markup] = [el("h4", _swatch(arm), f"{arm_label(arm)}{seed}")]
    if done.steps:
        parts += [el("p", _settled(done), class_="settled"), _steps(done, arm)]
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


def _steps(done: ItemArm, arm: str) -> Markup:
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
