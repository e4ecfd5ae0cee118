"""Pseudo-positives: right answers that do not come from the picture, told by the twin's picture."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image

from attcot_analysis.attention.probe import read_masses
from attcot_analysis.errors import TrainingError
from attcot_analysis.measures._items import parsed_responses
from attcot_analysis.measures.access import IMAGE, QUESTION, SYSTEM, access_columns
from attcot_analysis.measures.dependence import dependence
from attcot_analysis.models import Encoded, Mllm, collate, encode_problem
from attcot_analysis.problems import Problem
from attcot_analysis.stats.intervals import Interval, bootstrap_mean
from attcot_analysis.train.objective import AttCoTConfig, readable_layers
from attcot_lab.validity import auroc
from attcot_lab.vista.prefix import response_logits

INDEPENDENT = float(np.log(2))

"""A response that the twin's picture makes less than half as probable hangs on the picture."""


@dataclass(frozen=True)
class PseudoPositives:
    """Whether dropped positives are image-independent more often than kept ones.

    Attributes:
        kept: Share of the kept positives that are; interval over questions.
        dropped: Share of the dropped positives that are.
        difference: Dropped − kept within a question, mean over questions that have both: above
            zero the filter does what it is for. Scores compare responses to one question, so this
            is the fair test.
        auroc: Probability that an independent positive has a lower score than a dependent one.
        of: The column that says so, ``"independent"`` or ``"unfollowed"``.
    """

    kept: Interval
    dropped: Interval
    difference: Interval
    auroc: float
    of: str


def image_dependence(
    mllm: Mllm,
    problems: Sequence[Problem],
    positives: pd.DataFrame,
    *,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Ask of every right response whether it hangs on what the twin changes.

    Two answers, because neither alone is enough. ``drop``: by how much the whole response becomes
    less probable under the twin's picture, less what the control edit's picture does; a response
    that was made up from the question alone is as probable as before. ``unfollowed``: behind the
    response's own rationale the twin's picture is shown, and the forced answer is not the twin's;
    where the rationale states the evidence that says little, as the answer is copied from it.

    Args:
        mllm: The model that wrote them.
        problems: What they answer; those without a twin have no rows.
        positives: ``item``, ``number``, ``ids``, and whatever else, kept as it is.
        batch_size: Responses per forward pass.

    Returns:
        The rows with ``log_p``, ``log_p_twin`` and ``log_p_control`` (nats, of the whole
        response; NaN without a control), ``drop`` (control, or without one the original, − twin),
        ``independent`` (drop below `INDEPENDENT`), ``unfollowed`` (missing without a rationale
        step).

    Raises:
        TrainingError: If no positive's problem has a twin.

    Source: reconstruction; arXiv 2605.11931 calls such responses pseudo-positives and has no test
    of them.
    """
    by_id = {problem.id: problem for problem in problems if problem.twin is not None}
    rows = positives[positives["item"].isin(list(by_id))].reset_index(drop=True)
    if not len(rows):
        raise TrainingError(
            "None of the positives answers a problem with a twin; give problems that have one."
        )
    asked = [by_id[item] for item in rows["item"]]
    ids = rows["ids"].tolist()
    pictures: dict[str, list[Image.Image | None]] = {
        "log_p": [one.image for one in asked],
        "log_p_twin": [None if one.twin is None else one.twin.image for one in asked],
        "log_p_control": [None if one.control is None else one.control.image for one in asked],
    }
    found = {
        name: _log_p(mllm, asked, ids, images, batch_size) for name, images in pictures.items()
    }
    before = np.where(np.isnan(found["log_p_control"]), found["log_p"], found["log_p_control"])
    drop = before - found["log_p_twin"]
    return rows.assign(
        **found,
        drop=drop,
        independent=drop < INDEPENDENT,
        unfollowed=_unfollowed(mllm, asked, ids, batch_size),
    )


def pseudo_positives(table: pd.DataFrame, *, of: str = "independent") -> PseudoPositives:
    """Hold dropped positives against kept ones.

    Args:
        table: From `image_dependence`, with ``vas`` and ``kept`` as `positives` gives them.
        of: ``"independent"`` or ``"unfollowed"``; rows where it is missing are left out.

    Raises:
        TrainingError: If a column is missing.
    """
    missing = {"item", "vas", "kept", of} - set(table.columns)
    if missing:
        raise TrainingError(
            f"The table lacks {', '.join(sorted(missing))}; merge what positives() and "
            "image_dependence() give."
        )
    table = table[table[of].notna()]
    flag = table[of].astype(float)
    by_question = flag.groupby([table["item"], table["kept"]]).mean().unstack()
    both = by_question.reindex(columns=[False, True]).dropna()
    shares = {
        kept: bootstrap_mean(flag[table["kept"] == kept], table["item"][table["kept"] == kept])
        for kept in (True, False)
    }
    return PseudoPositives(
        kept=shares[True],
        dropped=shares[False],
        difference=bootstrap_mean((both[False] - both[True]).to_numpy()),
        auroc=auroc(-table["vas"][flag > 0], -table["vas"][flag == 0]),
        of=of,
    )


def _log_p(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Sequence[int]],
    images: Sequence[Image.Image | None],
    batch_size: int,
) -> npt.NDArray[np.float64]:
    """Log-probability of each response under a picture, NaN where there is none."""
    found = np.full(len(problems), np.nan)
    there = [at for at, image in enumerate(images) if image is not None]
    for start in range(0, len(there), batch_size):
        chunk = there[start : start + batch_size]
        items = [
            encode_problem(mllm, problems[at], response=responses[at], image=images[at])
            for at in chunk
        ]
        for at, item, parts in zip(chunk, items, response_logits(mllm, items), strict=True):
            tokens = item.input_ids[item.prompt_length :]
            total, read = 0.0, 0
            for logits in parts:
                own = tokens[read : read + len(logits)].to(logits.device)[:, None]
                total += float(logits.log_softmax(1).gather(1, own).double().sum())
                read += len(logits)
            found[at] = total
    return found


def _unfollowed(
    mllm: Mllm, problems: Sequence[Problem], responses: Sequence[Sequence[int]], batch_size: int
) -> pd.Series:
    parsed = parsed_responses(mllm, responses)
    there = [at for at, response in enumerate(parsed) if response.steps]
    followed = pd.Series(pd.NA, index=range(len(problems)), dtype="boolean")
    if there:
        table = dependence(
            mllm,
            [problems[at] for at in there],
            [responses[at] for at in there],
            edits=("twin",),
            rationales=("fixed",),
            batch_size=batch_size,
        ).table
        followed.iloc[there] = table["followed"].to_numpy()
    return ~followed


FloatArray = npt.NDArray[np.float64]


SHARES = ("system", "image", "instruction", "share")

"""Columns of the table of attention."""

ROUNDING = 1e-5

"""Shares that differ by less do not differ: kernels round, and z-scores would blow it up."""


def middle_layer(mllm: Mllm) -> int:
    """The layer nearest to the middle, ⌊L/2⌋, that has full attention (the lower of two).

    Raises:
        TrainingError: If no layer has full attention.

    Source: "middle layer" in arXiv 2605.11931; which one exactly is a reconstruction.
    """
    middle = mllm.n_layers // 2
    for layer in sorted(range(mllm.n_layers), key=lambda one: (abs(one - middle), one)):
        if readable_layers(mllm, AttCoTConfig(vis_layers=(layer,))):
            return layer
    raise TrainingError(
        f"No layer of {mllm.name} has full attention, so that no attention on the picture can be "
        "scored; use vas=False."
    )


def attention_shares(
    mllm: Mllm, items: Sequence[Encoded], *, layer: int | None = None, batch_size: int = 16
) -> pd.DataFrame:
    """Attention of responses on the parts of their prompts, from the probe.

    Args:
        mllm: The model that wrote the responses.
        items: Encoded with an image and the response, without end token.
        layer: Which one; default `middle_layer`.
        batch_size: Items per forward pass.

    Returns:
        One row per item. ``system``, ``image``, ``instruction``: attention on what stands before
        the image tokens, on them, and on the rest of the prompt, mean over the layer's heads,
        summed over the rows that predict the response's tokens (rationale, tags and answer);
        ``share``: S = image / (system + image + instruction), NaN for an empty response.

    Raises:
        MeasureError: If the layer does not exist or has no full attention.

    Source: arXiv 2605.11931; mean over heads and sum over tokens are a reconstruction.
    """
    chosen = middle_layer(mllm) if layer is None else layer
    sums = np.zeros((len(items), 3))
    for start in range(0, len(items), batch_size):
        part = items[start : start + batch_size]
        batch = collate(mllm, part)
        length = batch["input_ids"].shape[1]
        cols = torch.stack(
            [
                F.pad(access_columns(item, []), (0, 0, 0, length - len(item.input_ids)))
                for item in part
            ]
        )
        rows = torch.nn.utils.rnn.pad_sequence(
            [torch.as_tensor(item.layout.rows(item.layout.response)) for item in part],
            batch_first=True,
            padding_value=-1,
        )
        if not rows.numel():
            continue
        masses = read_masses(mllm, batch, cols.to(mllm.device), rows, layers=[chosen])[chosen]
        found = masses.double().mean(1).sum(1)[:, [SYSTEM, IMAGE, QUESTION]]
        sums[start : start + len(part)] = found.cpu().numpy()
    with np.errstate(invalid="ignore"):
        share = sums[:, 1] / sums.sum(1)
    return pd.DataFrame(np.column_stack([sums, share]), columns=list(SHARES))


def vision_scores(
    shares: Sequence[float] | FloatArray, questions: Sequence[Hashable]
) -> FloatArray:
    """VAS: by how many standard deviations a share lies above the mean of its question's.

    Args:
        shares: ``(N,)`` S of each response.
        questions: ``(N,)`` what each response answers.

    Returns:
        ``(N,)``, with the standard deviation of the question's responses themselves (divided by
        n). Where there is only one, or all differ by less than `ROUNDING`, there is nothing to
        tell them apart by and the score is 0. NaN where the share is NaN, which counts in no
        mean. Of two that differ the lower one has -1, by however little.

    Raises:
        TrainingError: If the numbers of shares and questions differ.

    Source: arXiv 2605.11931; divisor and equal shares are a reconstruction.
    """
    values = np.asarray(shares, dtype=np.float64)
    if values.shape != (len(questions),):
        raise TrainingError(
            f"{values.size} shares came with {len(questions)} questions; give one each."
        )
    scores = np.full(len(values), np.nan)
    codes, names = pd.factorize(pd.Series(list(questions), dtype=object))
    for code in range(len(names)):
        own = (codes == code) & ~np.isnan(values)
        if own.any():
            centred = values[own] - values[own].mean()
            spread = float(np.ptp(values[own]))
            scores[own] = centred / centred.std() if spread >= ROUNDING else 0.0
    # Of every pair the scores are -1 and 1; in the last bit they would rank pairs by chance.
    return scores.round(9)
