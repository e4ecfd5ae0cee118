"""Commitment: when along its rationale a model decides on its answer."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax
from tqdm.auto import tqdm

from attcot_analysis.attention.packing import candidate_tokens, forced_answers
from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.commitment_tables import commitment_curve, commitment_items
from attcot_analysis.measures.controls import (
    filler_rationale,
    other_rationales,
    prefix_texts,
    with_steps,
)
from attcot_analysis.models import Encoded, Mllm, encode_problem
from attcot_analysis.problems import Problem
from attcot_analysis.problems.reading import states

__all__ = ["CONTROLS", "commitment", "commitment_curve", "commitment_items"]

CONTROLS = ("rationale", "filler", "other_item")
"""The item's own rationale, and the two rationales it is held against."""

COLUMNS = ("item", "control", "step", "n_steps", "candidate", "log_p", "p", "leaked")
"""Columns of the table of commitment."""


def commitment(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Sequence[int] | str],
    *,
    images: Sequence[Image.Image] | None = None,
    controls: Sequence[str] = CONTROLS,
    others: Sequence[str] | None = None,
    empty: Literal["error", "skip"] = "error",
    batch_size: int = 16,
    progress: bool = False,
) -> pd.DataFrame:
    """Force an answer after every step and read the candidates' probabilities.

    Controls: ``"rationale"`` is the response's own; ``"filler"`` replaces the words of each step
    by dots, same number of steps and tokens (what mere length does); ``"other_item"`` puts in
    the first K steps of the next item (cyclic) with a different answer and at least K steps, or
    all steps of the longest such rationale if none has K (what any rationale does).

    Args:
        mllm: The model.
        problems: The items.
        responses: Per item the response, as token ids (what the model wrote) or as text.
        images: Other pictures to show instead of the items' own, e.g. of their twins.
        controls: Any of ``"rationale"``, ``"filler"``, ``"other_item"``.
        others: Per item the rationale that ``"other_item"`` puts in, where partners are to be
            sought among more items than these; see `other_rationales`.
        empty: What to do with responses that have no rationale step: raise an error, or leave
            the item out of the table.
        batch_size: Items per forward pass; each pass holds all forced answers of its items.
        progress: Show a progress bar.

    Returns:
        One row per item, control, step and candidate: ``item``, ``control``, ``step`` (0 to
        ``n_steps``), ``n_steps``, ``candidate``, ``log_p`` (nats; of the candidate's
        whole text with the closing tag, wherever the tokenizer cuts it, from the last token on
        that all candidates share), ``p`` (softmax of ``log_p`` over the candidates), ``leaked``
        (the rationale up to this step states this candidate as a word, so its probability may
        be read off the text).

    Raises:
        MeasureError: If a response has no rationale step (``empty="error"``), candidates
            tokenise ambiguously, a control cannot be built, or logits are not finite. Responses,
            candidates and pairing are checked before the first forward pass.

    Source: reconstruction of the premature answer commitment of arXiv 2606.01558, whose formulas
    are not public; early answering and filler as in Lanham et al., arXiv 2307.13702.
    """
    unknown = [control for control in controls if control not in CONTROLS]
    if unknown or not controls:
        raise MeasureError(f"Controls are {list(controls)}; choose from {', '.join(CONTROLS)}.")
    parsed = with_steps(mllm, problems, responses, images=images, empty=empty, forced=True)
    used = list(parsed)
    tokens = {at: candidate_tokens(mllm, problems[at].candidates) for at in used}
    partners: dict[int, str] = {}
    if "other_item" in controls:
        if others is None:
            texts = other_rationales([problems[at] for at in used], [parsed[at] for at in used])
        else:
            texts = [others[at] for at in used]
        partners = dict(zip(used, texts, strict=True))

    def encode(at: int, response: Sequence[int] | str) -> Encoded:
        image = None if images is None else images[at]
        return encode_problem(mllm, problems[at], mode="cot", response=response, image=image)

    frames = []
    starts = range(0, len(used), batch_size)
    for start in tqdm(starts, desc="commitment", disable=not progress):
        chunk = used[start : start + batch_size]
        own = [encode(at, responses[at]) for at in chunk]
        for control in controls:
            if control == "rationale":
                items = own
            elif control == "filler":
                items = [filler_rationale(mllm, item) for item in own]
            else:
                items = [encode(at, partners[at]) for at in chunk]
            names = [problems[at].id for at in chunk]
            read = forced_answers(mllm, items, [tokens[at] for at in chunk], names=names)
            for at, item, log_p in zip(chunk, items, read, strict=True):
                texts = prefix_texts(mllm, item)
                frames.append(_rows(problems[at], control, log_p.double().numpy(), texts))
    return pd.concat(frames, ignore_index=True)


def _rows(
    problem: Problem, control: str, log_p: NDArray[np.float64], texts: Sequence[str]
) -> pd.DataFrame:
    n_k, n_candidates = log_p.shape
    return pd.DataFrame(
        {
            "item": problem.id,
            "control": control,
            "step": np.repeat(np.arange(n_k), n_candidates),
            "n_steps": n_k - 1,
            "candidate": list(problem.candidates) * n_k,
            "log_p": log_p.ravel(),
            "p": softmax(log_p, axis=1).ravel(),
            "leaked": [states(text, c) for text in texts for c in problem.candidates],
        }
    )
