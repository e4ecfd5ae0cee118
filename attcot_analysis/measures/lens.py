"""Logit lens: what a forced answer would be if it were read after each layer."""

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from attcot_analysis.attention.candidates import Readout
from attcot_analysis.attention.packing import candidate_tokens, pack
from attcot_analysis.attention.probe import chosen_layers
from attcot_analysis.errors import MeasureError
from attcot_analysis.measures._items import Empty, Response, Result, batches, paired
from attcot_analysis.measures.probed import check_max_steps, probed
from attcot_analysis.measures.translators import Translators
from attcot_analysis.models import Mllm, evaluating
from attcot_analysis.models.inputs import Shown
from attcot_analysis.models.load import TextStack, hidden_states, text_stack
from attcot_analysis.problems import Problem
from attcot_analysis.stats.intervals import bootstrap_mean


class LensCommitment(Result):
    """What `lens_commitment` measured: the answer as it stands after each layer."""

    name = "lens"
    title = "Logit lens at the forced answer"
    columns = ("item", "step", "n_steps", "layer", "candidate", "log_p", "p")

    def items(self) -> pd.DataFrame:
        """From which layer on each forced answer already is the final one.

        Returns:
            One row per item and step: ``item``, ``step``, ``n_steps``, ``final`` (most probable
            candidate in the last layer after the last step: the answer that is given in the
            end); ``first_layer``, the earliest layer in which it is the most probable candidate
            (in early layers this happens by chance in one of as many items as there are
            candidates); ``settled_layer``, the earliest from which on it stays so up to the
            last. Missing where there is none: at that step the model would answer something
            else. Of use where the table has the model's last layer.
        """
        rows = []
        for item, best in self._best.items():
            final, layers = best.iloc[-1, -1], best.columns.to_numpy()
            for step, holds in zip(best.index, (best == final).to_numpy(), strict=True):
                rows.append((item, step, best.index[-1], final, *_layers(holds, layers)))
        columns = ["item", "step", "n_steps", "final", "first_layer", "settled_layer"]
        return pd.DataFrame(rows, columns=columns)

    def curve(self, *, n_boot: int = 2000) -> pd.DataFrame:
        """Average the final answer's probability over items, after every layer and step.

        Returns:
            One row per layer and step: ``layer``, ``step``, ``value``, ``low``, ``high``, ``n``
            (items).
        """
        final = {item: best.iloc[-1, -1] for item, best in self._best.items()}
        own = self.table[self.table["candidate"] == self.table["item"].map(final)]
        rows = []
        for key, part in own.groupby(["layer", "step"]):
            mean = bootstrap_mean(part["p"], n_boot=n_boot)
            rows.append((*key, mean.value, mean.low, mean.high, mean.n))
        return pd.DataFrame(rows, columns=["layer", "step", "value", "low", "high", "n"])

    def _check(self) -> None:
        n_layers = self.table["layer"].nunique()
        table = self.table.reset_index(drop=True)
        self._best: dict[str, pd.DataFrame] = {}
        for item, part in table.groupby("item", sort=False):
            best = part.loc[part.groupby(["step", "layer"])["p"].idxmax()]
            grid = best.pivot(index="step", columns="layer", values="candidate")
            twice = part.duplicated(["step", "layer", "candidate"]).any()
            n_steps = int(part["n_steps"].iloc[0])
            n_probed = int(part["n_probed"].iloc[0]) if "n_probed" in part else n_steps + 1
            ends = (grid.index[0], grid.index[-1]) == (0, n_steps)
            whole = ends and grid.shape == (n_probed, n_layers)
            if twice or grid.isna().to_numpy().any() or not whole:
                raise MeasureError(
                    f"Item {item}: the table does not hold each candidate once per layer and step "
                    "from 0 to n_steps; pass the rows of one run, and all of them."
                )
            self._best[str(item)] = grid

    def _headline(self) -> dict[str, npt.ArrayLike]:
        items = self.items()
        ends = items[items["step"] == items["n_steps"]]
        return {
            "first layer with the final answer, after the last step": ends["first_layer"],
            "layer from which on it stays": ends["settled_layer"],
        }


def lens_commitment(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Response],
    *,
    images: Sequence[Shown] | None = None,
    layers: Collection[int] | None = None,
    max_steps: int | None = None,
    translators: Translators | None = None,
    empty: Empty = "error",
    batch_size: int = 16,
    progress: bool = False,
) -> LensCommitment:
    """Force an answer after every step and read the candidates after every layer.

    The hidden state at a forced answer's row is put through the model's final norm and output
    head after each layer, not only after the last. One forward pass reads all steps and layers.

    Decodable is not used: that an answer can be read in the middle of the stack does not show
    that the model relies on it there, and that it cannot be read by *this* head does not show
    that it is not there (early layers speak another basis; ``translators`` learn it).

    Args:
        mllm: The model.
        problems: The items.
        responses: Per item the response, as token ids (what the model wrote) or as text.
        images: Other pictures to show instead of the items' own.
        layers: Which layers, from 0; default all.
        max_steps: Force answers after at most so many steps; see `commitment`.
        translators: A tuned lens, from `fit_translators`: every layer but the last is put through
            its affine map first.
        empty: What to do with items that cannot be measured; see `commitment`.
        batch_size: Items per forward pass.
        progress: Show a progress bar.

    Returns:
        A result whose table has one row per item, step, layer and candidate: ``item``, ``step``
        (0 to ``n_steps``), ``n_steps``, ``layer`` (read behind it; the last is the model's own
        output), ``candidate``, ``log_p`` (nats; of the candidate's whole text, as in
        `commitment`), ``p`` (softmax of ``log_p`` over the candidates). With ``max_steps`` also
        ``n_probed``, after how many steps an answer was forced.

    Raises:
        MeasureError: As `commitment`; if a layer does not exist; or if the model's output is not
            its last hidden state through norm and head.

    Source: reconstruction; logit lens (nostalgebraist 2020; for VLMs arXiv 2410.02762 and
    2410.07149) at the forced answers of Lanham et al., arXiv 2307.13702; with translators the
    tuned lens, Belrose et al., arXiv 2303.08112.
    """
    check_max_steps(max_steps)
    if not isinstance(translators, Translators | None):
        raise MeasureError(
            f"translators is {translators!r:.60}; give what fit_translators or Translators.load "
            "returns."
        )
    items = paired(mllm, problems, responses, images=images, forced=True, empty=empty, several=True)
    stack = text_stack(mllm)
    last = mllm.n_layers - 1
    chosen = chosen_layers(mllm, layers)
    tokens = {at: candidate_tokens(mllm, problems[at].candidates) for at in items.places}
    frames = []
    for chunk in batches(items.places, batch_size, "lens", progress):
        encoded = [items.encode(at) for at in chunk]
        steps = [probed(item, max_steps) for item in encoded]
        packed = pack(
            mllm,
            encoded,
            [tokens[at] for at in chunk],
            steps=steps,
            names=[problems[at].id for at in chunk],
        )
        with (
            torch.no_grad(),
            evaluating(mllm.model),
            hidden_states(stack, {*chosen, last}, packed.keep) as states,
        ):
            own = mllm.model(**packed.inputs, logits_to_keep=packed.keep[-1:], use_cache=False)
            stack.require_own(states[last][:, -1], own.logits[:, -1])
            read = []
            for place, one in enumerate(packed.readouts):
                readout = one.to(packed.keep.device)
                rows = torch.searchsorted(packed.keep, readout.rows)
                every = []
                for layer in chosen:
                    hidden = states[layer][place, rows]
                    if translators is not None and layer != last:
                        hidden = translators(layer, hidden)
                    every.append(_read(stack, readout, hidden))
                read.append(torch.stack(every, dim=1))
        packed.check_finite(read)
        for at, ks, log_p in zip(chunk, steps, read, strict=True):
            own_rows = _rows(problems[at], ks, chosen, log_p.double().cpu().numpy())
            frames.append(own_rows if max_steps is None else own_rows.assign(n_probed=len(ks)))
    table = pd.concat(frames, ignore_index=True)
    return LensCommitment(table, items.measured, skipped=items.skipped)


def _layers(holds: NDArray[np.bool_], layers: NDArray[np.int64]) -> tuple[float, float]:
    """The first layer where something holds, and the first from which on it does to the end."""
    if not holds.any():
        return np.nan, np.nan
    first = float(layers[holds.argmax()])
    if not holds[-1]:
        return first, np.nan
    failures = np.flatnonzero(~holds)
    return first, float(layers[failures[-1] + 1 if len(failures) else 0])


def _read(stack: TextStack, readout: Readout, hidden: Tensor) -> Tensor:
    """Candidates' log-probabilities ``(n_k, n_candidates)`` from states ``(n_k, n_rows, d)``."""
    parts = hidden.split(stack.rows_at_once(hidden.shape[1]))
    return torch.cat([readout.log_probs(stack.logits(part)) for part in parts])


def _rows(
    problem: Problem, steps: Sequence[int], layers: Sequence[int], log_p: NDArray[np.float64]
) -> pd.DataFrame:
    """Rows of one item's ``(n_k, n_layers, n_candidates)``."""
    n_k, n_layers, n_candidates = log_p.shape
    return pd.DataFrame(
        {
            "item": problem.id,
            "step": np.repeat(np.array(steps), n_layers * n_candidates),
            "n_steps": steps[-1],
            "layer": np.tile(np.repeat(layers, n_candidates), n_k),
            "candidate": list(problem.candidates) * (n_k * n_layers),
            "log_p": log_p.ravel(),
            "p": softmax(log_p, axis=-1).ravel(),
        }
    )
