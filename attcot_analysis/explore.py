"""`explore`: measure what an item's text looks at, in one model or several, and show it.

Here measuring and showing meet: the measurements become an `ExplorerRecord`, and an `Explorer`
draws it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np

from attcot_analysis.errors import MeasureError, ShowError
from attcot_analysis.measure.answers import answer_problems
from attcot_analysis.measure.commitment import commitment
from attcot_analysis.measure.heads import HeadRule, visual_heads
from attcot_analysis.measure.rollout import gradient_maps, rollout_maps
from attcot_analysis.measure.sinks import find_sinks
from attcot_analysis.measure.step_maps import ResponseMaps, response_maps
from attcot_analysis.models import Mllm, encode_problem
from attcot_analysis.models.inputs import ImageLike, read_image
from attcot_analysis.problems import Problem, render_response
from attcot_analysis.show.explorer_data import ExplorerModel, ExplorerRecord, Head

if TYPE_CHECKING:
    from attcot_analysis.show.explorer import Explorer

ExplorerSource = Literal["attention", "sink_free", "rollout", "gradient_relevance"]
"""What an explorer can take its maps from."""

_EVERY: tuple[ExplorerSource, ...] = get_args(ExplorerSource)
_RULE = HeadRule()


def explore(
    models: Mllm | Mapping[str, Mllm],
    problem: Problem,
    response: str | Sequence[int] | None = None,
    *,
    sources: Sequence[ExplorerSource] = _EVERY,
    heads: Sequence[Head] | None = None,
    image: ImageLike | None = None,
    max_new_tokens: int = 256,
    **start: Any,
) -> "Explorer":
    """Show where each token of a response looks and when the model decided, before and after.

    Args:
        models: One model, or models by label, the first of which is held against the second.
        problem: The item.
        response: The text to look at, or its token ids. ``None``: of one model its own greedy
            response; of several the problem's right rationale, teacher-forced to all, because
            maps only compare on one text (the first model's response if there is no rationale).
        sources: What maps to offer; ``"attention"`` always is. Gradients cost one backward pass
            per step, all else a forward pass or two.
        heads: The visual heads, e.g. from `select_heads`. ``None``: those of the first model on
            this item by ``HeadRule()`` that look more than an even look would.
        image: Another picture to show instead of the item's own.
        max_new_tokens: Length limit of the models' own responses.
        **start: What to show first: ``layer``, ``head``, ``token``, ``source``.

    Raises:
        ShowError: If anywidget is missing, or the models' texts or shapes do not fit together.
        MeasureError: If a source is unknown or not defined for a model.
        LayoutError: If the response has no step, or the item not exactly one image.
    """
    try:
        from attcot_analysis.show.explorer import Explorer
    except ModuleNotFoundError as error:
        if error.name not in ("anywidget", "ipywidgets", "traitlets"):
            raise
        raise ShowError(
            f"The explorer needs {error.name}, which is not installed; run "
            "`pip install 'attcot-analysis[notebooks]'`, or write explorer_page(record)."
        ) from error
    record = explorer_record(
        models,
        problem,
        response,
        sources=sources,
        heads=heads,
        image=image,
        max_new_tokens=max_new_tokens,
    )
    return Explorer(record, **start)


def explorer_record(
    models: Mllm | Mapping[str, Mllm],
    problem: Problem,
    response: str | Sequence[int] | None = None,
    *,
    sources: Sequence[ExplorerSource] = _EVERY,
    heads: Sequence[Head] | None = None,
    image: ImageLike | None = None,
    max_new_tokens: int = 256,
) -> ExplorerRecord:
    """Measure what `explore` shows; the arguments are the same.

    Raises:
        MeasureError: If a source is unknown or not defined for a model.
        LayoutError: If the response has no step, or the item not exactly one image.
        ShowError: If the models' texts or shapes do not fit together.
    """
    unknown = [source for source in sources if source not in _EVERY]
    if unknown:
        raise MeasureError(
            f"Sources {unknown} are unknown to the explorer; choose from {', '.join(_EVERY)}."
        )
    named = {Path(models.name).name: models} if isinstance(models, Mllm) else dict(models)
    if not named:
        raise MeasureError("No model was given to explore; give one, or several by label.")
    images = None if image is None else [image]
    own = {
        label: answer_problems(mllm, [problem], images=images, max_new_tokens=max_new_tokens).iloc[
            0
        ]
        for label, mllm in named.items()
    }
    text = "The response given."
    if response is None and len(named) > 1 and problem.steps:
        response = render_response(problem.steps, problem.answer)
        text = "The right rationale, teacher-forced: the same words for every model."
    elif response is None:
        first = next(iter(named))
        response = list(own[first]["ids"])
        text = f"What {first} writes by itself."
    found = tuple(
        _measure(label, mllm, problem, response, sources, image, own[label])
        for label, mllm in named.items()
    )
    note = "Visual heads as given."
    if heads is None:
        heads, note = _visual_heads(*next(iter(named.items())), problem, response)
    return ExplorerRecord(
        problem=problem,
        models=found,
        heads=tuple(heads),
        heads_note=note,
        text=text,
        image=None if image is None else read_image(image),
    )


def _measure(
    label: str,
    mllm: Mllm,
    problem: Problem,
    response: str | Sequence[int],
    sources: Sequence[str],
    image: ImageLike | None,
    own: Any,
) -> ExplorerModel:
    maps = [response_maps(mllm, problem, response, image=image)]
    if "rollout" in sources:
        maps.append(rollout_maps(mllm, problem, response, targets="tokens", image=image))
    if "gradient_relevance" in sources:
        by_step = gradient_maps(mllm, problem, response, targets="steps", image=image)
        maps.append(by_token(by_step, maps[0]))
    encoded = encode_problem(mllm, problem, response=response, image=image)
    forced = commitment(
        mllm,
        [problem],
        [response],
        images=None if image is None else [read_image(image)],
        controls=("rationale",),
    )
    return ExplorerModel(
        label=label,
        maps=tuple(maps),
        sinks=find_sinks(mllm, encoded) if "sink_free" in sources else None,
        image_tokens=encoded.layout.image,
        commitment=forced,
        response=str(own["text"]),
        answer=cast("str | None", own["answer"] or own["stated"]),
    )


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
        stated, text = steps.tokens[steps.answer], ""
        for at in range(tokens.answer, len(tokens.tokens)):
            rows[:, :, at] = steps.weights[:, :, steps.answer]
            text += tokens.tokens[at]
            if len(text.strip()) >= len(stated):
                break
    return ResponseMaps(
        rows, steps.grid, tokens.tokens, tokens.steps, tokens.boxes, tokens.answer, steps.source
    )


def _visual_heads(
    label: str, mllm: Mllm, problem: Problem, response: str | Sequence[int]
) -> tuple[list[Head], str]:
    table = visual_heads(mllm, [problem], [response], rule=_RULE, n_boot=1)
    chosen = table[table["visual"] & (table["ratio"] >= 1)]
    pairs = zip(chosen["layer"], chosen["head"], strict=True)
    note = (
        f"Visual heads: visual mass of at least {_RULE.min_mass:g} and more than an even look, "
        f"at most half of it on sinks, on this item in {label}."
    )
    return [(int(layer), int(head)) for layer, head in pairs], note
