"""What the diagnostics of causes, behaviour and perceptions say of a planted model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from attcot_analysis.measures._items import Result
from attcot_analysis.measures.behaviours import behaviour
from attcot_analysis.measures.causal import causal_access
from attcot_analysis.measures.compare import item_values
from attcot_analysis.measures.maps import response_maps
from attcot_analysis.measures.patches import patching
from attcot_analysis.measures.statements import perceptions
from attcot_analysis.measures.states import hidden_commitment, steering
from attcot_analysis.models import Mllm
from attcot_analysis.problems import Problem
from attcot_lab.deletion import deletion_areas, deletion_curves
from attcot_lab.testbed.planted import PlantConfig, ending_elsewhere
from attcot_lab.testbed.truth import board_truth

DIAGNOSED = "diagnosed"
"""What its table is called."""

CUT = "cut_answer"
"""The log-probability that the answer loses when its own rows cannot read the picture."""

DELETION = "deletion_gain"
"""Nats by which the answer's attention map beats random orders under deletion and insertion."""

FOLDS = 5
MAPPED = 50
"""Items with deletion curves, which cost some forty passes each."""


def diagnosed(mllm: Mllm, problems: Sequence[Problem], answers: pd.DataFrame) -> pd.DataFrame:
    """Measure patching, a cut edge, hidden states, steering, behaviour, perceptions and deletion.

    Args:
        mllm: The model.
        problems: Items of one arrow.
        answers: Its greedy CoT answers to them, from `answer_problems`.

    Returns:
        ``item``, ``metric``, ``value``: those of the catalogue, `CUT` and `DELETION`. What needs
        answers that recur is left out with fewer than two items per fold.
    """
    ids = [list(own) for own in answers["ids"]]
    given = (mllm, problems, ids)
    options: dict[str, Any] = {"empty": "skip", "batch_size": 50}
    elsewhere = ending_elsewhere(len(problems), PlantConfig())
    other = dict(zip((one.id for one in problems), elsewhere, strict=True))

    def of_another(problem: Problem, number: int, text: str) -> str | None:
        steps = other[problem.id].steps
        return steps[number - 1].text if number <= len(steps) else None

    results: list[Result] = [
        patching(*given, groups=("evidence",), windows=[(0, 0)], max_steps=2, **options),
        behaviour(*given, mistakes=of_another, max_new_tokens=40, **options),
        perceptions(problems, answers["steps"].tolist(), truth=board_truth),
    ]
    if len(problems) >= 2 * FOLDS:
        layer = 2 * mllm.n_layers // 3
        results.append(hidden_commitment(*given, folds=FOLDS, max_steps=2, **options))
        results.append(steering(*given, layer=layer, scales=(2.0,), n_random=3, **options))
    cut = causal_access(*given, kinds=("knockout",), rows="answer", **options).table
    lost = cut.set_index("item")["delta_log_p"]
    gains: dict[str, float] = {}
    for problem, own, answer in zip(problems, ids, answers["answer"], strict=True):
        if len(gains) < MAPPED and isinstance(answer, str):
            maps = response_maps(mllm, problem, own)
            curves = deletion_curves(
                mllm, problem, own, [maps], n_points=5, n_random=3, batch_size=64
            )
            areas = deletion_areas(curves).set_index("source")["beyond_random"]
            gains[problem.id] = float(areas["attention"])
    values = item_values(model="", seed=0, results=results)[["item", "metric", "value"]]
    more = {CUT: lost, DELETION: pd.Series(gains, dtype=np.float64)}
    parts = [
        found.rename("value").rename_axis("item").reset_index().assign(metric=metric)
        for metric, found in more.items()
    ]
    return pd.concat([values, *parts], ignore_index=True)
