"""VAS, the vision-aware attention score: how much responses to a question look, against others."""

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import torch.nn.functional as F

from attcot_analysis.attention.probe import read_masses
from attcot_analysis.errors import TrainingError
from attcot_analysis.measures.access_blocks import IMAGE, QUESTION, SYSTEM, access_columns
from attcot_analysis.models import Encoded, Mllm, collate
from attcot_analysis.train.objective import AttCoTConfig
from attcot_analysis.train.read_layers import readable_layers

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
