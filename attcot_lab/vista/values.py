"""What VISTA's first round shows of its questions: imbalance, gains, and what its filter drops."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from attcot_analysis.models import load_mllm
from attcot_analysis.problems import Problem
from attcot_lab.vista.config import VistaConfig
from attcot_lab.vista.drawing import read_vista_round
from attcot_lab.vista.pseudo_positives import image_dependence
from attcot_lab.vista.run import vista_folder
from attcot_lab.vista.sets import VistaRound, gains, is_positive

QUESTIONS = 64
"""Of so many questions the positives are shown the twin: several forward passes each."""
_DRAWS = {"continued": "mended", "plain": "plain"}


def vista_values(
    base: str | Path,
    problems: Sequence[Problem],
    folder: str | Path,
    config: VistaConfig,
) -> pd.DataFrame:
    """Values of the axis "samples", per training question, of a finished run's first round.

    Its responses are the base's own, so they do not depend on what was trained on, and all arms
    that sample alike share them with a seed. Hence the costly part, whether positives hang on the
    picture, is only asked of a run that draws for comparison (`VistaConfig.control`) and filters:
    of the first `QUESTIONS` questions with a twin and with positives of both sorts.

    Args:
        base: The model of the first round.
        problems: What `run_vista` was given.
        folder: What `run_vista` has made.
        config: Its settings.

    Returns:
        ``item``, ``metric`` (a name in `METRICS`), ``value``. Gains are there for draws that were
        made; questions for which a metric is not defined have no row.

    Raises:
        RunError: If the first round is missing or damaged.
    """
    drawn = read_vista_round(vista_folder(folder), 1)
    found = gains(drawn.responses)
    sampled = (found["draw"] == "sampled") & (found["success"] == "answer")
    parts = {
        "unsolved": 1 - found[sampled].set_index("item")["value"],
        "easy_excess": easy_excess(drawn.responses),
    }
    for (success, draw), own in found.groupby(["success", "draw"], sort=False):
        if draw in _DRAWS:
            parts[f"gain_{_DRAWS[draw]}_{success}"] = own.set_index("item")["value"]
    if config.control and config.vas:
        parts |= _hanging(base, problems, drawn, config)
    tables = [
        pd.DataFrame({"item": values.index, "metric": name, "value": values.to_numpy(float)})
        for name, values in parts.items()
        if len(values)
    ]
    return pd.concat(tables, ignore_index=True)


def easy_excess(responses: pd.DataFrame) -> pd.Series:
    """How far easy questions have more than their share of the right samples.

    The first half of a question's samples says whether it is easy (half of them right, at least),
    the second half is counted: were one half to do both, questions that differ by luck only would
    look unequal.

    Args:
        responses: Of one round; only plain first samples are looked at, equal ones each for
            itself.

    Returns:
        Item → its right samples over the mean question's, minus 1, if it is easy, else 0. The mean
        is the easy questions' share of the right samples minus their share of the questions.
        Empty with fewer than two samples per question, or no right one in the second half.

    Source: reconstruction of the data imbalance of arXiv 2605.11931.
    """
    own = responses[responses["origin"] == "sampled"]
    right = is_positive(own)
    items = own.groupby("item", sort=False)
    early = items.cumcount() < items["number"].transform("size") // 2
    easy = right[early].groupby(own["item"], sort=False).mean() >= 0.5
    count = right[~early].groupby(own["item"], sort=False).sum()
    if not len(easy) or not count.sum():
        return pd.Series(dtype=float)
    excess = count / count.mean() - 1
    return excess.where(easy.reindex(count.index, fill_value=False), 0.0)


def _hanging(
    base: str | Path, problems: Sequence[Problem], drawn: VistaRound, config: VistaConfig
) -> dict[str, pd.Series]:
    """Per question, how image-independent its kept and its dropped positives are."""
    positives = drawn.positives(config)
    with_twin = {problem.id for problem in problems if problem.twin is not None}
    sorts = positives[positives["item"].isin(with_twin)].groupby("item", sort=False)["kept"]
    chosen = [item for item, kept in sorts if kept.nunique() > 1][:QUESTIONS]
    if not chosen:
        return {}
    ids = drawn.responses[["item", "number", "ids"]]
    asked = positives[positives["item"].isin(chosen)].merge(ids, on=["item", "number"])
    mllm = load_mllm(base, dtype=torch.float32)
    table = image_dependence(mllm, problems, asked, batch_size=config.batch_size)
    found = {}
    for kept, name in ((True, "kept"), (False, "dropped")):
        own = table[table["kept"] == kept].groupby("item", sort=False)
        found[f"independent_{name}"] = own["independent"].mean().astype(np.float64)
        found[f"response_dependence_{name}"] = own["drop"].mean()
    return found
