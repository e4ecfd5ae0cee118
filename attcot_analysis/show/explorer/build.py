"""`explore`: measure what an item's text looks at, in one model or several, and show it.

Here measuring and showing meet: the measurements become an `ExplorerRecord`, an `Explorer` draws
it, and `describe_record` puts it into words.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import pandas as pd

from attcot_analysis.attention.sinks import find_sinks
from attcot_analysis.errors import LayoutError, MeasureError, ShowError, notebook_packages
from attcot_analysis.measures.answers import answer_problems, answer_row
from attcot_analysis.measures.commitment import Commitment, commitment
from attcot_analysis.measures.heads import HeadRule, visual_heads
from attcot_analysis.measures.maps import ResponseMaps, Targets, response_maps
from attcot_analysis.measures.open_answers import open_commitment
from attcot_analysis.measures.relevance import relevance_maps
from attcot_analysis.models import Mllm, TokenGrid, encode_problem
from attcot_analysis.models.generate import Generation
from attcot_analysis.models.inputs import ImageLike, read_image
from attcot_analysis.problems import Box, Problem
from attcot_analysis.show.explorer.record import ExplorerModel, ExplorerRecord, Head, answer_end

if TYPE_CHECKING:
    from attcot_analysis.show.explorer.widget import Explorer

Pictures = ImageLike | Mapping[str, ImageLike] | None

ExplorerSource = Literal["attention", "sink_free", "rollout", "gradient_relevance"]
"""What an explorer can take its maps from."""

_EVERY: tuple[ExplorerSource, ...] = get_args(ExplorerSource)
_RULE = HeadRule()


def explore(
    models: Mllm | Mapping[str, Mllm],
    problem: Problem | Sequence[Problem],
    response: str | Sequence[int] | Mapping[str, str | Sequence[int]] | None = None,
    *,
    sources: Sequence[ExplorerSource] | None = None,
    heads: Sequence[Head] | None = None,
    image: Pictures = None,
    max_new_tokens: int = 256,
    values: pd.DataFrame | None = None,
    **start: Any,
) -> "Explorer":
    """Show where each token of a response looks and when the model decided, before and after.

    Args:
        models: One model, or models by label, the first of which is held against the second.
        problem: The item; or several, of which one is shown at a time, measured when it is opened.
        response: The text to look at, or its token ids; of several items by their ids. ``None``: of
            one model its own greedy response; of several the problem's right rationale,
            teacher-forced to all, because maps only compare on one text (the first model's response
            if there is no rationale).
        sources: What maps to offer; ``"attention"`` always is. ``None``: all that are defined for
            the models. Gradients cost one backward pass per step, all else a forward pass or two.
        heads: The visual heads, e.g. from `VisualHeads.select`. ``None``: those of the first
            model on this item by ``HeadRule()`` that look more than uniform attention would.
        image: Another picture to show instead of the item's own, or such pictures by label: one
            model under two labels, the second with another picture, is the item beside its edit.
        max_new_tokens: Length limit of the models' own responses.
        values: Of several items, what they are sorted by: a run's table ``values``.
        **start: What to show first: ``layer``, ``head``, ``token``, ``source``.

    Raises:
        ShowError: If anywidget is missing, or the models' texts or shapes do not fit together.
        MeasureError: If a source is unknown or not defined for a model.
        LayoutError: If the response has no step, or the item not exactly one image.
    """
    _check_widgets()
    given: dict[str, Any] = {"sources": sources, "heads": heads, "max_new_tokens": max_new_tokens}
    if isinstance(problem, Problem):
        if isinstance(response, Mapping):
            response = response.get(problem.id)
        record = explorer_record(models, problem, response, image=image, **given)
        return make_explorer(record, **start)
    from attcot_analysis.show.explorer.widget import Gallery

    if image is not None or not isinstance(response, Mapping | None):
        raise ShowError(
            "Several items have pictures of their own and responses by their ids; leave image out "
            "and give response as a mapping."
        )
    texts = response or {}
    return Gallery(
        problem,
        lambda one: explorer_record(models, one, texts.get(one.id), **given),
        values=values,
        **start,
    )


def make_explorer(record: ExplorerRecord, **start: Any) -> "Explorer":
    """The live explorer of a record.

    Raises:
        ShowError: If anywidget is missing.
    """
    _check_widgets()
    from attcot_analysis.show.explorer.widget import Explorer

    return Explorer(record, **start)


def _check_widgets() -> None:
    with notebook_packages("explorer", "write explorer_page(record)"):
        import attcot_analysis.show.explorer.widget  # noqa: F401


def explorer_record(
    models: Mllm | Mapping[str, Mllm],
    problem: Problem,
    response: str | Sequence[int] | None = None,
    *,
    sources: Sequence[ExplorerSource] | None = None,
    heads: Sequence[Head] | None = None,
    image: Pictures = None,
    max_new_tokens: int = 256,
    written: Mapping[str, Generation] | None = None,
    judged: bool = True,
) -> ExplorerRecord:
    """Measure what `explore` shows; the arguments are the same, and two more.

    Args:
        models: As for `explore`; also the following.
        problem: The item.
        response: The text.
        sources: What maps to offer.
        heads: The visual heads.
        image: Other pictures.
        max_new_tokens: Length limit.
        written: What the models write by themselves, by label, where that is known already.
        judged: Whether the problem's answer is known to be right.

    Raises:
        MeasureError: If a source is unknown or not defined for a model.
        LayoutError: If the response is empty, or the item has not exactly one image.
        ShowError: If the models' texts or shapes do not fit together.
    """
    unknown = [source for source in sources or () if source not in _EVERY]
    if unknown:
        raise MeasureError(
            f"Sources {unknown} are unknown to the explorer; choose from {', '.join(_EVERY)}."
        )
    named = {Path(models.name).name: models} if isinstance(models, Mllm) else dict(models)
    if not named:
        raise MeasureError("No model was given to explore; give one, or several by label.")
    by_label = image if isinstance(image, Mapping) else dict.fromkeys(named, image)
    strange = [label for label in by_label if label not in named]
    if strange:
        raise MeasureError(f"There are pictures for {strange}, which are none of {list(named)}.")
    pictures = {label: by_label.get(label) for label in named}
    if problem.n_images > 1 and any(one is not None for one in pictures.values()):
        raise MeasureError(
            f"Item {problem.id} has {problem.n_images} pictures, and another is shown instead of "
            "one only; give an item whose own picture is the other one."
        )
    own = {
        label: _own(mllm, problem, pictures[label], max_new_tokens, (written or {}).get(label))
        for label, mllm in named.items()
    }
    label, first = next(iter(named.items()))
    text = "The response given."
    if response is None and len(named) > 1 and problem.steps:
        response = first.format.right_response(problem)
        text = "The right rationale, teacher-forced: the same words for every model."
    elif response is None:
        response = list(own[label]["ids"])
        text = f"What {label} writes by itself."
    cut = bool(first.parse(response).steps)
    table = visual_heads(
        first,
        [problem],
        [response],
        where="rationale" if cut else "prompt",
        rule=_RULE,
        n_boot=1,
    ).table
    layers = tuple(int(layer) for layer in sorted(table["layer"].unique()))
    missing: list[str] = []
    measured = [
        _measure(name, mllm, problem, response, sources, layers, pictures[name], own[name], missing)
        for name, mllm in named.items()
    ]
    kept = set.intersection(*({maps.source for maps in model.maps} for model in measured))
    note = "Visual heads as given."
    if heads is None:
        heads = _looking(table)
        note = (
            f"Visual heads: visual mass of at least {_RULE.min_mass:g}, more than uniform "
            f"attention, at most half of it on sinks, on this item in {label}"
            f"{'' if cut else ', at the end of the prompt, since the text has no step'}."
        )
    return ExplorerRecord(
        problem=problem,
        models=tuple(
            replace(model, maps=tuple(maps for maps in model.maps if maps.source in kept))
            for model in measured
        ),
        heads=tuple((layers.index(layer), head) for layer, head in heads if layer in layers),
        heads_note=note,
        text=" ".join([text, *dict.fromkeys(missing)]),
        image=None if image is None or isinstance(image, Mapping) else read_image(image),
        layers=layers,
        judged=judged,
    )


def _own(
    mllm: Mllm, problem: Problem, image: ImageLike | None, limit: int, written: Generation | None
) -> Any:
    """What a model answers by itself, a row of `answer_problems`."""
    if written is not None:
        return answer_row(problem, written, mode="cot", form=mllm.format)
    images = None if image is None else [image]
    return answer_problems(mllm, [problem], images=images, max_new_tokens=limit).iloc[0]


def _measure(
    label: str,
    mllm: Mllm,
    problem: Problem,
    response: str | Sequence[int],
    sources: Sequence[str] | None,
    layers: Sequence[int],
    image: ImageLike | None,
    own: Any,
    missing: list[str],
) -> ExplorerModel:
    """Everything of one model; what it has no maps of is said in ``missing``."""
    wanted = _EVERY if sources is None else sources
    maps = [response_maps(mllm, problem, response, image=image)]
    for source in ("rollout", "gradient_relevance"):
        if source not in wanted:
            continue
        try:
            targets: Targets = "tokens" if source == "rollout" else "steps"
            found = relevance_maps(
                mllm, problem, response, source=source, targets=targets, image=image
            )
            maps.append(found if source == "rollout" else by_token(found, maps[0]))
        except (LayoutError, MeasureError) as error:
            if sources is not None and isinstance(error, MeasureError):
                raise
            missing.append(f"No {source.replace('_', ' ')}: {error}")
    encoded = encode_problem(mllm, problem, response=response, image=image)
    forced = None
    images = None if image is None else [read_image(image)]
    if encoded.layout.steps and problem.candidates:
        given: Any = {"images": images, "controls": ("rationale",)}
        forced = commitment(mllm, [problem], [response], **given).table
    elif encoded.layout.steps and encoded.layout.answer is not None:
        forced = open_curve(open_commitment(mllm, [problem], [response], images=images).table)
    return ExplorerModel(
        label=label,
        maps=tuple(maps),
        sinks=find_sinks(mllm, encoded, layers=layers) if "sink_free" in wanted else None,
        image_tokens=encoded.layout.image,
        commitment=forced,
        response=str(own["text"]),
        answer=cast("str | None", own["answer"] or own["stated"]),
        image=images[0] if images else None,
    )


def open_curve(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `open_commitment` as one of `commitment`: the stated answer, p per token."""
    return table.assign(control="rationale", candidate=table["final"])


def by_token(steps: ResponseMaps, tokens: ResponseMaps) -> ResponseMaps:
    """Give every token the map of its step, the answer's tokens that of the answer.

    Args:
        steps: Maps of steps and the answer, ``targets="steps"``.
        tokens: Maps of the same response's tokens.

    Returns:
        The maps of ``steps`` with the rows of ``tokens``; NaN for tokens that belong to neither.
    """
    rows = np.full(
        (*steps.weights.shape[:2], len(tokens.tokens), len(steps.grid)), np.nan, dtype=np.float32
    )
    of_step = {step: at for at, step in enumerate(steps.steps) if step}
    for at, step in enumerate(tokens.steps):
        if step in of_step:
            rows[:, :, at] = steps.weights[:, :, of_step[step]]
    if steps.answer is not None and tokens.answer is not None:
        end = answer_end(tokens.tokens, tokens.answer, steps.tokens[steps.answer])
        rows[:, :, tokens.answer : end] = steps.weights[:, :, steps.answer, None]
    return replace(tokens, weights=rows, grid=steps.grid, source=steps.source)


def _looking(table: pd.DataFrame) -> list[Head]:
    """The visual heads of a table that look more than uniform attention would."""
    chosen = table[table["visual"] & (table["ratio"] >= 1)]
    pairs = zip(chosen["layer"], chosen["head"], strict=True)
    return [(int(layer), int(head)) for layer, head in pairs]


SURE = 0.5
"""The probability from which on a forced answer counts as made up."""


_COLUMNS, _ROWS = ("left", "centre", "right"), ("upper", "middle", "lower")

_NUMBERED = re.compile(r"^\s*\d+\.\s*")


def describe_record(record: ExplorerRecord, *, step: int = 2) -> str:
    """Say where the models looked, when they decided, and what they answer.

    Of attention, mean over layers and heads: the step's over its rows, with the token at which
    most of it lay on the evidence; and that of the row which predicts the answer. A place is the
    ninth of the picture in which the image token with most weight lies. Uniform attention would put
    on the boxes the share of the picture that they cover. The decision falls at the first step from
    which on the final forced answer stays the most probable, with a probability of at least `SURE`.

    One item is an illustration; whether it is typical takes all of them, with intervals.

    Args:
        record: From `explorer_record`, or of an `Explorer`.
        step: Which step to describe.

    Returns:
        Paragraphs with one line per model, numbers rounded to two digits.

    Raises:
        ShowError: If the text has no such step.
    """
    n_steps = record.models[0].maps[0].n_steps
    if not 1 <= step <= n_steps:
        raise ShowError(f"There is no step {step} to describe; the text has steps 1 to {n_steps}.")
    at_step = [at for at, number in enumerate(record.steps) if number == step]
    text = _NUMBERED.sub("", "".join(record.tokens[at] for at in at_step)).strip()
    heading = f"Where did it look when it wrote step {step}, {_quoted(text)}?"
    paragraphs = [_looks(record, heading, at_step, record.boxes[at_step[0]])]
    if record.answer is not None:
        heading = "Where did it look when it gave its answer (evidence: the last step's)?"
        last = record.boxes[record.steps.index(n_steps)]
        paragraphs.append(_looks(record, heading, [record.answer], last))
    if record.problem.candidates and all(m.commitment is not None for m in record.models):
        heading = "When did it make up its mind (p of its final answer after 0, 1, ... steps)?"
        paragraphs.append((heading, [_mind(model, record.problem) for model in record.models]))
    if any(model.response is not None for model in record.models):
        heading = "What does it answer when it writes for itself?"
        told = [_answer(model, record.problem, record.judges(model)) for model in record.models]
        paragraphs.append((heading, told))
    labels = [model.label for model in record.models]
    width = max(map(len, labels))
    return "\n\n".join(
        "\n".join([asked, *(f"  {a:{width}s}  {b}" for a, b in zip(labels, lines, strict=True))])
        for asked, lines in paragraphs
    )


def _looks(
    record: ExplorerRecord, heading: str, tokens: Sequence[int], boxes: Sequence[Box]
) -> tuple[str, list[str]]:
    cover = record.grid.coverage(boxes)
    seen = bool(cover.any())
    if boxes and not seen:
        heading += "\n(the model is shown nothing of the evidence)"
    elif boxes:
        even = f"{cover.mean():.2f}"
        heading += f"\n(shares of attention; uniform attention would put {even} on the evidence)"
    lines = []
    for model in record.models:
        rows = model.maps[0].weights[:, :, tokens].mean(axis=(0, 1), dtype=np.float64)
        mean = rows.mean(axis=0)
        line = f"strongest {describe_place(record.grid, int(mean.argmax()))}; "
        line += f"{mean.sum():.2f} on the picture"
        if seen and mean.sum() > 0:
            line += f", of that {mean @ cover / mean.sum():.2f} on the evidence"
            each = rows @ cover / np.maximum(rows.sum(axis=1), np.finfo(float).tiny)
            most = int(each.argmax())
            if len(tokens) > 1:
                token = record.tokens[tokens[most]].strip()
                line += f" ({each[most]:.2f} at {_quoted(token)})"
        lines.append(line)
    return heading, lines


def describe_place(grid: TokenGrid, token: int) -> str:
    """Which ninth of the picture a token's centre lies in."""
    x0, y0, x1, y1 = grid.boxes[token]
    width, height = grid.image_size
    column = _COLUMNS[min(2, int(3 * (x0 + x1) / 2 / width))]
    row = _ROWS[min(2, int(3 * (y0 + y1) / 2 / height))]
    return "in the centre" if (row, column) == ("middle", "centre") else f"{row} {column}"


def _mind(model: ExplorerModel, problem: Problem) -> str:
    assert model.commitment is not None
    table = model.commitment[model.commitment["control"] == "rationale"]
    item = Commitment(table, [problem]).items(thresholds=(SURE,)).iloc[0]
    p = table[table["candidate"] == item["final"]].sort_values("step")["p"]
    when = f"never (p stays below {SURE:g})"
    if not np.isnan(item[f"commitment_step_{SURE:g}"]):
        step = int(item[f"commitment_step_{SURE:g}"])
        when = f"after step {step} of {item['n_steps']}" if step else "before it wrote anything"
    return f"{when}: {item['final']} ({' '.join(f'{value:.2f}' for value in p)})"


def _answer(model: ExplorerModel, problem: Problem, judged: bool) -> str:
    if model.answer is None:
        return "none that can be told"
    if not judged:
        return model.answer
    if model.answer == problem.answer:
        return f"{model.answer}, which is right"
    habitual = ", the habitual answer" if model.answer == problem.habitual else ""
    return f"{model.answer}, which is wrong (right: {problem.answer}){habitual}"


def _quoted(text: str) -> str:
    return f"\N{LEFT DOUBLE QUOTATION MARK}{text}\N{RIGHT DOUBLE QUOTATION MARK}"
