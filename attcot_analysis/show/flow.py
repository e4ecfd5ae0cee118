"""Where the picture's answer is held on its way up the stack, before and after fine-tuning."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from attcot_analysis.errors import ShowError
from attcot_analysis.measures.causal import CausalAccess
from attcot_analysis.measures.patches import Patching, Step
from attcot_analysis.show.curves import line_panels
from attcot_analysis.show.style import arm_label, styled_arms
from attcot_analysis.stats.intervals import bootstrap_mean

_STEPS = {"first": "before the first step", "last": "after the last step"}


def _lost(cut: CausalAccess) -> pd.DataFrame:
    """Nats of log p that knockout of each edge costs, by layer, from its first step on."""
    items = cut.items()
    rows = []
    keys = ["keys", "rows", "first_layer"]
    for key, part in items[items["kind"] == "knockout"].groupby(keys, sort=False):
        mean = bootstrap_mean(part["delta_log_p"])
        edge = f"{key[0]} → {'all written' if key[1] == 'both' else key[1]}"
        rows.append((edge, key[2], mean.value, mean.low, mean.high, mean.n))
    return pd.DataFrame(rows, columns=["group", "first_layer", "value", "low", "high", "n"])


def information_flow(
    results: Mapping[str, Patching],
    *,
    cuts: Mapping[str, Sequence[CausalAccess]] | None = None,
    steps: Sequence[Step | int] = ("first", "last"),
    title: str = "Where is the picture's answer held?",
) -> Figure:
    """Draw which tokens' residual streams carry the answer behind each layer, on one scale.

    Reading from left to right, what the image tokens lose others have taken over: question, words
    of the rationale, the answer's own rows. One panel per model and step; a step at which a model
    tells the twin from the picture on no item has none, which the caller should say.

    With ``cuts`` everything is in nats, and every model has one more panel: what its answer loses
    when one edge is cut in one layer (image → answer, question → answer, ...). A patch says what
    suffices to move the answer, a cut what it needs. The scale is one; the quantities are log-odds
    of two answers and log p of one, so curves of one kind compare exactly, and the kinds roughly.

    Args:
        results: Model → result of `patching` with the site ``"residual"``.
        cuts: Model → results of `causal_access` by knockout, in windows of layers.
        steps: Forced answers after so many steps.
        title: Title of the figure; empty for none.

    Raises:
        ShowError: If nothing is left to draw.
    """
    parts = []
    quantity = "net_share" if cuts is None else "net"
    for name, result in results.items():
        for step in steps:
            curve = result.curve(quantity, step=step)
            curve = curve[(curve["site"] == "residual") & curve["value"].notna()]
            panel = f"{arm_label(name)}, {_STEPS.get(str(step), f'after step {step}')}"
            if not curve.empty:
                panel += f" (n={curve['n'].max()})"
            parts.append(curve.assign(quantity=panel))
        for cut in (cuts or {}).get(name, ()):
            lost = _lost(cut)
            panel = f"{arm_label(name)}, cut (n={lost['n'].max()})"
            parts.append(lost.assign(quantity=panel))
    curves = pd.concat(parts)
    if curves.empty:
        raise ShowError(
            "No result has residual patches on items that tell the twin from the picture; measure "
            "patching with the site 'residual', or look at its describe()."
        )
    curves = curves.rename(columns={"first_layer": "layer", "group": "model"}).drop(columns="n")
    with styled_arms(list(dict.fromkeys(curves["model"]))):
        # Of a single item the interval is not defined.
        drawn = curves[["value", "low", "high"]].to_numpy(float)
        ends = (float(np.nanmin(drawn)) - 0.1, float(np.nanmax(drawn)) + 0.1)
        label = "share of the gap, net" if cuts is None else "nats moved, or lost by a cut"
        return line_panels(curves, {"layer": "layer"}, label, title, limits=ends)
