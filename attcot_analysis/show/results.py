"""The figure of each measurement's result, under the measurement's name; see `Result.figure`.

All take the result; ``model`` is what to call the model, ``title`` the title of the figure (empty
for none), and quantities are columns of the result's table.
"""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from attcot_analysis.measures.access import AnswerAccess, VisualAccess
from attcot_analysis.measures.behaviours import Behaviour
from attcot_analysis.measures.causal import CausalAccess
from attcot_analysis.measures.commitment import Commitment
from attcot_analysis.measures.compare import item_values, summarise
from attcot_analysis.measures.dependence import Dependence
from attcot_analysis.measures.divergence import TokenDivergence
from attcot_analysis.measures.heads import VisualHeads
from attcot_analysis.measures.lens import LensCommitment
from attcot_analysis.measures.open_answers import OpenCommitment, Quantity
from attcot_analysis.measures.outcomes import DRAWN, GROUPS, SIGNS, CotOutcomes
from attcot_analysis.measures.patches import Patching, Step
from attcot_analysis.measures.relevance import Relevance
from attcot_analysis.measures.statements import Perceptions
from attcot_analysis.measures.states import HiddenCommitment, Steering
from attcot_analysis.show.curves import access_curves, access_grid, commitment_curves, line_panels
from attcot_analysis.show.intervals import metric_intervals
from attcot_analysis.show.style import styled_arms
from attcot_analysis.stats.catalogue import METRICS


def commitment(
    result: Commitment, *, model: str = "model", title: str = "When does the answer settle?"
) -> Figure:
    """Draw the probability of the final answer after each step, with chance where it is one."""
    sizes = result.table.groupby("item")["candidate"].nunique().unique()
    chance = 1 / float(sizes[0]) if len(sizes) == 1 else None
    return commitment_curves(result.curve().assign(model=model), chance=chance, title=title)


_READINGS: Mapping[Quantity, str] = {
    "p": "p per token, final answer",
    "p_closed": "the same with the closing tag",
    "entropy": "entropy, first token (nats)",
    "entropy_answer": "entropy, forced answer (nats)",
    "same": "forced answer is the final one",
}


def open_commitment(
    result: OpenCommitment,
    *,
    readings: tuple[Quantity, ...] = ("p", "entropy", "same"),
    model: str = "model",
    title: str = "When does the answer settle?",
) -> Figure:
    """Draw readings of the forced answer after each step, a panel for each."""
    curves = [result.curve(name).assign(quantity=_READINGS[name], model=model) for name in readings]
    labels = {"k": "rationale steps written", "position": "share of the rationale written"}
    return line_panels(pd.concat(curves), labels, "forced answer", title)


def access(
    result: VisualAccess,
    *,
    quantities: tuple[str, ...] = ("mass", "share", "evidence_share"),
    model: str = "model",
    title: str = "Does it keep looking while it writes?",
) -> Figure:
    """Draw quantities of visual access at each rationale step, a panel for each.

    Those without a value (of evidence, where there are no boxes) are left out.
    """
    there = [name for name in quantities if result.table[name].notna().any()]
    curves = [result.curve(name).assign(quantity=name, model=model) for name in there]
    return access_curves(pd.concat(curves), quantity="share of attention", title=title)


def answer_access(
    result: AnswerAccess,
    *,
    quantity: str = "mass",
    model: str = "model",
    title: str = "Does it look when it answers?",
) -> Figure:
    """Draw a quantity of the answer's row by layer, mean over heads."""
    curve = result.curve(quantity).assign(model=model)
    return line_panels(curve, {"layer": "layer"}, quantity, title)


def dependence(result: Dependence, *, model: str = "model") -> Figure:
    """Draw every metric of counterfactual dependence that the edits allow, with its interval."""
    values = item_values(model=model, seed=0, dependence=result)
    return metric_intervals(summarise(values), METRICS)


def behaviour(result: Behaviour, *, model: str = "model") -> Figure:
    """Draw what each probe changes, beside its null.

    Args:
        result: From `behaviour`.
        model: What to call the model.
    """
    values = item_values(model=model, seed=0, results=[result])
    return metric_intervals(summarise(values), METRICS)


def causal(
    result: CausalAccess, *, title: str = "What is lost without the image from here on?"
) -> Figure:
    """Draw the log p lost by the step from which the image is cut off, one line per kind.

    Drawn are fixed rationales, a panel for each window of layers.
    """
    curve = result.curve()
    curve = curve[curve["rationale"] == "fixed"].rename(columns={"kind": "model"})
    window = "layers " + curve["first_layer"].astype(str) + " to " + curve["last_layer"].astype(str)
    labels = {"k": "rationale steps before the cut", "position": "position of the cut (share)"}
    return line_panels(curve.assign(quantity=window), labels, "log p lost (nats)", title)


def outcomes(result: CotOutcomes) -> Figure:
    """Draw which share of the items that CoT hurt, that it helped and of the rest shows each sign.

    Raises:
        ShowError: If no sign was measured.
    """
    names = [GROUPS[group] for group in DRAWN]
    table = result.shares().replace({"group": dict(GROUPS)})
    table = table[table["group"].isin(names) & (table["n"] > 0)]
    columns = {"sign": "metric", "group": "model", "n": "n_items"}
    with styled_arms(names):
        metrics = {name: sign.metric for name, sign in SIGNS.items()}
        return metric_intervals(table.rename(columns=columns), metrics)


def divergence(
    result: TokenDivergence,
    *,
    model: str = "model",
    title: str = "What the words owe to the picture",
) -> Figure:
    """Draw the divergence of each rationale step."""
    curve = result.curve().assign(model=model)
    return access_curves(curve, quantity="KL per token (nats)", title=title)


def lens(result: LensCommitment, *, model: str = "model") -> Figure:
    """Draw the final answer's probability by layer and steps written."""
    return access_grid(result.curve().assign(model=model), quantity="p(final answer)")


def states(result: HiddenCommitment) -> Figure:
    """Draw the share of items whose answer is decoded, by layer and step, beside the controls."""
    names = {"none": "decoded", "text_only": "without the picture"}
    curve = result.curve().replace({"control": names}).rename(columns={"control": "model"})
    return access_grid(curve, quantity="share of items decoded")


def steering(
    result: Steering, *, title: str = "Does the decoded direction move the answer?"
) -> Figure:
    """Draw the share of answers that reach their target, by the length of the push."""
    curve = result.curve().rename(columns={"direction": "model"})
    return line_panels(curve, {"scale": "push (distances between the means)"}, "share", title)


def patching(
    result: Patching,
    *,
    quantity: str | None = None,
    step: Step | int = "last",
    title: str = "Which activations carry the picture's answer?",
) -> Figure:
    """Draw what patches recover by layer, a line for each group of tokens and a panel per site.

    Args:
        result: From `patching`; single heads are drawn where nothing else was patched, in the group
            where they recover most.
        quantity: A column of its `items`; default the net share of the gap, or nats where no item
            has one.
        step: The forced answer after so many steps.
        title: Title of the figure; empty for none.
    """
    if quantity is None:
        shares = result.curve(step=step, n_boot=1)["value"]
        quantity = "net_share" if shares.notna().any() else "recovered"
    curve = result.curve(quantity, step=step)
    labels = {"net_share": "share of the gap, net", "share": "share of the gap"}
    name = labels.get(quantity, f"{quantity} (nats)")
    if set(curve["site"]) == {"head"}:
        best = str(curve.groupby("group")["value"].max().idxmax())
        heads = curve[curve["group"] == best].rename(columns={"first_layer": "layer"})
        return access_grid(heads.assign(model=best), quantity=name, column="head")
    curve = curve[curve["site"] != "head"]
    columns = {"first_layer": "layer", "group": "model", "site": "quantity"}
    return line_panels(curve.rename(columns=columns), {"layer": "layer"}, name, title)


def perceptions(
    result: Perceptions, *, model: str = "model", title: str = "Is what it says it sees true?"
) -> Figure:
    """Draw the share of false statements at each rationale step.

    Args:
        result: From `perceptions`.
        model: What to call the model.
        title: Title of the figure; empty for none.
    """
    curve = result.curve().assign(model=model)
    return line_panels(curve, {"k": "rationale step"}, "share of statements false", title)


def heads(result: VisualHeads, *, model: str = "model") -> Figure:
    """Draw the visual mass of every head, by layer."""
    table = result.table.rename(columns={"mass": "value"}).assign(model=model)
    return access_grid(table, column="head")


def relevance(
    result: Relevance, *, title: str = "How much relevance lies on the step's evidence?"
) -> Figure:
    """Draw the share of relevance on the evidence of each step, one line per source."""
    curve = result.curve().rename(columns={"source": "model"})
    return line_panels(curve, {"step": "rationale step (0: answer)"}, "share on evidence", title)
