"""`explore`: measure what an item's text looks at, in one model or several, and show it.

Here measuring and showing meet: the measurements become an `ExplorerRecord`, and an `Explorer`
draws it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import pandas as pd

from attcot_analysis.attention.sinks import find_sinks
from attcot_analysis.errors import MeasureError, ShowError
from attcot_analysis.measures.answers import answer_problems
from attcot_analysis.measures.commitment import commitment
from attcot_analysis.measures.heads import HeadRule, visual_heads
from attcot_analysis.measures.maps import ResponseMaps, response_maps
from attcot_analysis.measures.relevance import gradient_maps, rollout_maps
from attcot_analysis.models import Mllm, encode_problem
from attcot_analysis.models.inputs import ImageLike, read_image
from attcot_analysis.problems import Problem, render_response
from attcot_analysis.show.explorer.record import ExplorerModel, ExplorerRecord, Head, answer_end

if TYPE_CHECKING:
    from attcot_analysis.show.explorer.widget import Explorer

ExplorerSource = Literal["attention", "sink_free", "rollout", "gradient_relevance"]
"""What an explorer can take its maps from."""

_EVERY: tuple[ExplorerSource, ...] = get_args(ExplorerSource)
_RULE = HeadRule()


def explore(
    models: Mllm | Mapping[str, Mllm],
    problem: Problem,
    response: str | Sequence[int] | None = None,
    *,
    sources: Sequence[ExplorerSource] | None = None,
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
        sources: What maps to offer; ``"attention"`` always is. ``None``: all that are defined for
            the models. Gradients cost one backward pass per step, all else a forward pass or two.
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
        from attcot_analysis.show.explorer.widget import Explorer
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
    sources: Sequence[ExplorerSource] | None = None,
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
    unknown = [source for source in sources or () if source not in _EVERY]
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
    label, first = next(iter(named.items()))
    text = "The response given."
    if response is None and len(named) > 1 and problem.steps:
        response = render_response(problem.steps, problem.answer)
        text = "The right rationale, teacher-forced: the same words for every model."
    elif response is None:
        response = list(own[label]["ids"])
        text = f"What {label} writes by itself."
    table = visual_heads(first, [problem], [response], rule=_RULE, n_boot=1)
    layers = tuple(int(layer) for layer in sorted(table["layer"].unique()))
    missing: list[str] = []
    found = [
        _measure(name, mllm, problem, response, sources, layers, image, own[name], missing)
        for name, mllm in named.items()
    ]
    kept = set.intersection(*({maps.source for maps in model.maps} for model in found))
    note = "Visual heads as given."
    if heads is None:
        heads = _looking(table)
        note = (
            f"Visual heads: visual mass of at least {_RULE.min_mass:g}, more than an even look, "
            f"at most half of it on sinks, on this item in {label}."
        )
    return ExplorerRecord(
        problem=problem,
        models=tuple(
            replace(model, maps=tuple(maps for maps in model.maps if maps.source in kept))
            for model in found
        ),
        heads=tuple((layers.index(layer), head) for layer, head in heads if layer in layers),
        heads_note=note,
        text=" ".join([text, *dict.fromkeys(missing)]),
        image=None if image is None else read_image(image),
        layers=layers,
    )


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
            if source == "rollout":
                maps.append(rollout_maps(mllm, problem, response, targets="tokens", image=image))
            else:
                steps = gradient_maps(mllm, problem, response, targets="steps", image=image)
                maps.append(by_token(steps, maps[0]))
        except MeasureError as error:
            if sources is not None:
                raise
            missing.append(f"No {source.replace('_', ' ')}: {error}")
    encoded = encode_problem(mllm, problem, response=response, image=image)
    forced = None
    if problem.candidates:
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
        sinks=find_sinks(mllm, encoded, layers=layers) if "sink_free" in wanted else None,
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
        end = answer_end(tokens.tokens, tokens.answer, steps.tokens[steps.answer])
        rows[:, :, tokens.answer : end] = steps.weights[:, :, steps.answer, None]
    return replace(tokens, weights=rows, grid=steps.grid, source=steps.source)


def _looking(table: pd.DataFrame) -> list[Head]:
    """The visual heads of a table that look more than an even look would."""
    chosen = table[table["visual"] & (table["ratio"] >= 1)]
    pairs = zip(chosen["layer"], chosen["head"], strict=True)
    return [(int(layer), int(head)) for layer, head in pairs]
