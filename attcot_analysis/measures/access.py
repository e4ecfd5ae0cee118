"""Visual access: how much each rationale step attends to the image and to its own evidence.

Attention is a cheap sign of access, not evidence of it: information also reaches a step through
question tokens that read the image before. `dependence` is the causal counterpart.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import pandas as pd
from tqdm.auto import tqdm

from attcot_analysis.attention.hook import attached
from attcot_analysis.attention.sinks import SinkRule, sink_rule
from attcot_analysis.errors import LayoutError, MeasureError
from attcot_analysis.measures.access_read import ANSWER, STEPS, Kind, Part, joined, read_access
from attcot_analysis.measures.controls import parsed_responses
from attcot_analysis.models import Mllm, encode_problem
from attcot_analysis.models.inputs import ImageLike
from attcot_analysis.problems import Problem

Responses = Sequence[Sequence[int] | str]


class AccessTables(NamedTuple):
    """What `access_tables` measures.

    Attributes:
        steps: As from `visual_access`.
        answer: As from `answer_access`.
    """

    steps: pd.DataFrame
    answer: pd.DataFrame


def visual_access(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Responses,
    *,
    images: Sequence[ImageLike] | None = None,
    layers: Collection[int] | None = None,
    sinks: bool | SinkRule = False,
    batch_size: int = 16,
    skip_empty: bool = False,
    progress: bool = False,
) -> pd.DataFrame:
    """Attention of each rationale step on the image, per layer and head.

    A step's values are means over its rows; the row of token t is position t - 1, whose query
    predicts t. Definitions ("visual-token access", a reconstruction of the Att-CoT paper's idea):

    * ``mass``: attention on all image tokens, in [0, 1].
    * ``share``: ``mass`` over the attention on system, image and question, so that the growing
      rationale does not dilute it (the segment-normalised form of VISTA).
    * ``density``: mean attention per image token over mean attention per other visible token;
      1 means that the image gets what uniform attention would give it.
    * ``evidence_mass``: attention on image tokens, each weighted by the share of its area that
      lies in the step's evidence boxes; NaN for a step without boxes, or with boxes of which the
      processor's crop leaves the model nothing to see.
    * ``evidence_share``: ``evidence_mass`` over ``mass``; ``evidence_area``: what it would be if
      all image tokens got the same attention.
    * with ``sinks``, ``sink_free_mass``: attention on image tokens that are no sink where the
      layer takes them in (arXiv 2503.03321); ``sink_share``: the sinks' part of ``mass``.

    Ratios are ratios of step means. Step number k of a response is held against the boxes of the
    problem's step k; give problems with other steps if an edit has moved the evidence.

    Args:
        mllm: The model.
        problems: The items.
        responses: One response per item, text or token ids, with a rationale.
        images: Pictures to show instead of the problems' own.
        layers: Layers to read; all with full attention if ``None``.
        sinks: Also look for sink tokens, in the same forward pass: ``True``, or by which rule.
        batch_size: Items per forward pass.
        skip_empty: Leave out items whose response has no step, instead of refusing them.
        progress: Show a progress bar.

    Returns:
        One row per item, step, layer and head: ``item, step (1..K), n_steps, layer, head``, the
        quantities above, and ``rows``, the number of rows averaged.

    Raises:
        MeasureError: If the numbers of problems, responses and images differ, or the sink rule
            does not fit the model.
        LayoutError: If a response has no step, unless ``skip_empty``.
    """
    _check_lengths(problems, responses, images)
    rule = sink_rule(sinks)
    kept = _kept(mllm, problems, responses, skip_empty, STEPS)
    batches = _batches(mllm, problems, responses, kept, images, batch_size, progress)
    with attached(mllm.model):
        found = [read_access(mllm, part, [STEPS], layers, rule)[0] for part in batches]
    return joined(found, STEPS, rule)


def answer_access(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Responses,
    *,
    images: Sequence[ImageLike] | None = None,
    layers: Collection[int] | None = None,
    sinks: bool | SinkRule = False,
    batch_size: int = 16,
    skip_empty: bool = False,
    progress: bool = False,
) -> pd.DataFrame:
    """Attention of the row that predicts the answer's first token, per layer and head.

    Where does the model look at the moment it commits to an answer? The quantities are those of
    `visual_access`; the evidence here is that of all steps of the problem together, and
    ``last_evidence_mass`` and ``last_evidence_share`` speak of the boxes of the problem's last
    step that has any. A response whose rationale states the evidence can be answered rightly
    without a look: low values are no failure by themselves. Reconstruction.

    Args:
        mllm: The model.
        problems: The items.
        responses: One response per item, text or token ids, that states an answer.
        images: Pictures to show instead of the problems' own.
        layers: Layers to read; all with full attention if ``None``.
        sinks: Also look for sink tokens; see `visual_access`.
        batch_size: Items per forward pass.
        skip_empty: Leave out items whose response states no answer, instead of refusing them.
        progress: Show a progress bar.

    Returns:
        One row per item, layer and head: ``item, n_steps, layer, head``, the quantities, and
        ``rows``, which is 1.

    Raises:
        MeasureError: As `visual_access`.
        LayoutError: If a response states no answer, unless ``skip_empty``.
    """
    _check_lengths(problems, responses, images)
    rule = sink_rule(sinks)
    kept = _kept(mllm, problems, responses, skip_empty, ANSWER)
    batches = _batches(mllm, problems, responses, kept, images, batch_size, progress)
    with attached(mllm.model):
        found = [read_access(mllm, part, [ANSWER], layers, rule)[0] for part in batches]
    return joined(found, ANSWER, rule)


def access_tables(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Responses,
    *,
    images: Sequence[ImageLike] | None = None,
    layers: Collection[int] | None = None,
    sinks: bool | SinkRule = False,
    batch_size: int = 16,
    progress: bool = False,
) -> AccessTables:
    """`visual_access` and `answer_access` from the same forward passes.

    Items without a step have no rows in the first table, items without an answer none in the
    second; the arguments are those of `visual_access`.

    Raises:
        MeasureError: As `visual_access`.
    """
    _check_lengths(problems, responses, images)
    rule = sink_rule(sinks)
    every = list(range(len(problems)))
    batches = _batches(mllm, problems, responses, every, images, batch_size, progress)
    kinds = [STEPS, ANSWER]
    with attached(mllm.model):
        found = [read_access(mllm, part, kinds, layers, rule) for part in batches]
    steps, answer = ([parts[index] for parts in found] for index in range(2))
    return AccessTables(joined(steps, STEPS, rule), joined(answer, ANSWER, rule))


def _kept(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Responses,
    skip_empty: bool,
    kind: Kind,
) -> list[int]:
    """Which items have blocks; checked before any forward pass, so that nothing is lost."""
    kept = []
    for index, parsed in enumerate(parsed_responses(mllm, responses)):
        if kind.there(parsed):
            kept.append(index)
        elif not skip_empty:
            raise LayoutError(
                f"Problem {problems[index].id}: its response {kind.lack} (skip_empty=True leaves "
                "such items out)."
            )
    return kept


def _batches(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Responses,
    kept: Sequence[int],
    images: Sequence[ImageLike] | None,
    batch_size: int,
    progress: bool,
) -> Iterator[Part]:
    starts = range(0, len(kept), batch_size)
    for start in tqdm(starts, desc="visual access", disable=not progress):
        part = []
        for index in kept[start : start + batch_size]:
            image = None if images is None else images[index]
            item = encode_problem(mllm, problems[index], response=responses[index], image=image)
            part.append((problems[index], item))
        yield part


def _check_lengths(
    problems: Sequence[Problem],
    responses: Responses,
    images: Sequence[ImageLike] | None,
) -> None:
    if len(problems) != len(responses) or (images is not None and len(images) != len(problems)):
        shown = "" if images is None else f" and {len(images)} images"
        raise MeasureError(
            f"{len(problems)} problems came with {len(responses)} responses{shown}; "
            "give one per problem."
        )
