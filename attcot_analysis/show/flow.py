"""Where the picture's answer is held on its way up the stack, before and after fine-tuning."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from attcot_analysis.errors import ShowError
from attcot_analysis.measures.patches import Patching, Step
from attcot_analysis.show.curves import line_panels
from attcot_analysis.show.style import arm_label, styled_arms

_STEPS = {"first": "before the first step", "last": "after the last step"}


def information_flow(
    results: Mapping[str, Patching],
    *,
    steps: Sequence[Step | int] = ("first", "last"),
    title: str = "Where is the picture's answer held?",
) -> Figure:
    """Draw which tokens' residual streams carry the answer behind each layer, on one scale.

    Reading from left to right, what the image tokens lose others have taken over: question, words
    of the rationale, the answer's own rows. One panel per model and step; a step at which a model
    tells the twin from the picture on no item has none, which the caller should say.

    Args:
        results: Model → result of `patching` with the site ``"residual"``.
        steps: Forced answers after so many steps.
        title: Title of the figure; empty for none.

    Raises:
        ShowError: If nothing is left to draw.
    """
    parts = []
    for name, result in results.items():
        for step in steps:
            curve = result.curve(step=step)
            curve = curve[(curve["site"] == "residual") & curve["value"].notna()]
            panel = f"{arm_label(name)}, {_STEPS.get(str(step), f'after step {step}')}"
            if not curve.empty:
                panel += f" (n={curve['n'].max()})"
            parts.append(curve.assign(quantity=panel))
    curves = pd.concat(parts)
    if curves.empty:
        raise ShowError(
            "No result has residual patches on items that tell the twin from the picture; measure "
            "patching with the site 'residual', or look at its describe()."
        )
    curves = curves.rename(columns={"first_layer": "layer", "group": "model"}).drop(columns="n")
    with styled_arms(list(dict.fromkeys(curves["model"]))):
        ends = (curves["low"].min() - 0.1, curves["high"].max() + 0.1)
        label = "share of the gap, net"
        return line_panels(curves, {"layer": "layer"}, label, title, limits=ends)
