"""Divergence: how much each rationale token's prediction changes when the picture does."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from attcot_analysis.errors import MeasureError, not_finite
from attcot_analysis.measures._items import Empty, Response, Result, batches, paired, seen_edits
from attcot_analysis.models import Encoded, Mllm, collate, encode_problem, evaluating
from attcot_analysis.models.inputs import Shown
from attcot_analysis.models.load import TextStack, hidden_states, text_stack
from attcot_analysis.problems import Problem
from attcot_analysis.problems.edits import (
    EditKind,
    EditOptions,
    edited_images,
    left_out,
)
from attcot_analysis.stats.crossed import step_curve

Quantity = Literal["kl", "delta_log_p"]


class TokenDivergence(Result):
    """What `token_divergence` measured: what each rationale token owes to the picture."""

    name = "divergence"
    title = "Divergence along the rationale"
    columns = ("item", "token", "step", "kl", "log_p_before", "log_p_after")

    def steps(self, quantity: Quantity = "kl") -> pd.DataFrame:
        """Mean over the tokens of every step.

        Args:
            quantity: ``"kl"``, or ``"delta_log_p"``: the tokens' own log-probability before −
                after.

        Returns:
            ``item``, ``step``, ``value`` (nats per token).
        """
        means = self._tokens().groupby(["item", "step"], sort=False)[quantity].mean()
        return means.rename("value").reset_index()

    def items(self) -> pd.DataFrame:
        """Means over each item's tokens: ``item``, ``kl``, ``delta_log_p`` (nats per token)."""
        tokens = self._tokens()
        return tokens.groupby("item", sort=False)[["kl", "delta_log_p"]].mean().reset_index()

    def curve(self, quantity: Quantity = "kl", *, n_boot: int = 2000) -> pd.DataFrame:
        """Average `steps` over items, with intervals.

        Returns:
            One row per step: ``step``, ``value``, ``low``, ``high``, ``n`` (items).
        """
        curve = step_curve({0: self.steps(quantity)}, axis="step", n_boot=n_boot)
        return curve.drop(columns="n_seeds")

    def _tokens(self) -> pd.DataFrame:
        lost = self.table["log_p_before"] - self.table["log_p_after"]
        return self.table.assign(delta_log_p=lost)

    def _headline(self) -> dict[str, npt.ArrayLike]:
        items = self.items()
        return {"KL, nats per token": items["kl"], "log p lost per token": items["delta_log_p"]}


def token_divergence(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Response],
    *,
    edit: EditKind = "blank",
    options: EditOptions | None = None,
    images: Sequence[Shown] | None = None,
    empty: Empty = "error",
    batch_size: int = 8,
    progress: bool = False,
) -> TokenDivergence:
    """Divergence between a rationale's predictions with the picture and with an edited one.

    The rationale stays as it is, token for token; only the picture differs. For the token at
    position t both distributions are those of row t - 1, which predicts it, so each of them has
    seen the same text.

    Args:
        mllm: The model.
        problems: The items.
        responses: Per item the response, as token ids (what the model wrote) or as text.
        edit: What is done to the picture, see `edited_images`. Items that do not allow it have
            no rows; ``skipped`` names them.
        options: How to blur and occlude.
        images: Edited pictures to show instead, one per problem; ``edit`` is then not used.
        empty: What to do with responses that have no rationale step: raise an error, or leave
            the item out of the table.
        batch_size: Items per forward pass. Logits are computed for a few rows at a time, so
            memory does not grow with the vocabulary.
        progress: Show a progress bar.

    Returns:
        A result whose table has one row per item and token of a rationale step: ``item``;
        ``token``, its place in the response, from 0; ``step``, from 1; ``kl``, KL(with the
        picture ‖ with the edited one) over the vocabulary, nats; ``log_p_before`` and
        ``log_p_after``, the token's own log-probability with the picture and with the edited
        one, nats.

    Raises:
        MeasureError: If inputs do not fit together, no item allows the edit, a response has no
            rationale step (``empty="error"``), or logits are not finite.

    Source: arXiv 2606.01558 (reconstruction); token dependency as in VPPO, arXiv 2510.09285, and
    CFPO, arXiv 2606.23206, with the exact divergence in place of an estimate from one token.
    """
    items = paired(mllm, problems, responses, images=images, empty=empty, several=True)
    skipped = dict(items.skipped)
    shown: dict[int, Shown]
    if images is None:
        edited = seen_edits(mllm, problems, edited_images(problems, edit, options=options))
        for kind, names in left_out(problems, edited, [edit]).items():
            skipped[f"no edit {kind}"] = tuple(names)
        shown = {one.at: one.shown(problems[one.at]) for one in edited if one.at in items.parsed}
    else:
        shown = {at: images[at] for at in items.places}
    if not shown:
        raise MeasureError(
            f"No item with a rationale step allows the edit {edit!r}; choose another edit."
        )
    stack = text_stack(mllm)
    pictures = {at: problems[at].held for at in shown}
    frames = []
    for chunk in batches(list(shown), batch_size, "divergence", progress):
        own, other = (
            [
                encode_problem(
                    mllm, problems[at], mode="cot", response=responses[at], image=picture[at]
                )
                for at in chunk
            ]
            for picture in (pictures, shown)
        )
        before, after = _states(mllm, stack, own), _states(mllm, stack, other)
        for at, item, first, second in zip(chunk, own, before, after, strict=True):
            frames.append(_rows(stack, problems[at], item, first, second))
    table = pd.concat(frames, ignore_index=True)
    return TokenDivergence(table, items.measured, skipped=skipped)


def _rationale(item: Encoded) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the tokens of an item's steps, and the step of each, from 1."""
    steps = item.layout.steps
    positions = np.concatenate([np.arange(step.start, step.stop) for step in steps])
    return positions, np.repeat(np.arange(1, len(steps) + 1), [step.size for step in steps])


def _states(mllm: Mllm, stack: TextStack, items: Sequence[Encoded]) -> list[Tensor]:
    """Per item the last layer's states ``(tokens, d)`` at the rows of its rationale."""
    batch = collate(mllm, items)
    rows = [torch.from_numpy(_rationale(item)[0] - 1).to(mllm.device) for item in items]
    union = torch.unique(torch.cat(rows))
    last = mllm.n_layers - 1
    with torch.no_grad(), evaluating(mllm.model), hidden_states(stack, [last], union) as states:
        output = mllm.model(**batch, logits_to_keep=union[-1:], use_cache=False)
        stack.require_own(states[last][:, -1], output.logits[:, -1])
    return [states[last][at, torch.searchsorted(union, own)] for at, own in enumerate(rows)]


@torch.no_grad()
def _rows(
    stack: TextStack, problem: Problem, item: Encoded, before: Tensor, after: Tensor
) -> pd.DataFrame:
    positions, steps = _rationale(item)
    tokens = item.input_ids[positions].to(before.device)
    size = stack.rows_at_once()
    parts = []
    for first, second, token in zip(
        before.split(size), after.split(size), tokens.split(size), strict=True
    ):
        p, q = (stack.logits(states).log_softmax(-1) for states in (first, second))
        kl = torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)
        own = [each.gather(-1, token[:, None])[:, 0] for each in (p, q)]
        # Rounding makes the divergence of equals a little negative.
        parts.append(torch.stack([kl.clamp(min=0), *own]))
    values = torch.cat(parts, dim=1).double().cpu().numpy()
    if not np.isfinite(values).all():
        raise not_finite(
            f"Item {problem.id}: the model's logits are not finite along its rationale"
        )
    return pd.DataFrame(
        {
            "item": problem.id,
            "token": positions - item.prompt_length,
            "step": steps,
            "kl": values[0],
            "log_p_before": values[1],
            "log_p_after": values[2],
        }
    )
