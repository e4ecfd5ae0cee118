"""Causal access: what an answer loses when rows can no longer read the image.

The causal counterpart of `visual_access`. Attention on the image shows where a row could read;
cutting those edges shows whether what is read there matters.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from attcot_analysis.attention.forced import ForcedAnswers
from attcot_analysis.attention.hook import Intervention, Revision, attached, intervening
from attcot_analysis.attention.knockout import Knockout, MeanValue
from attcot_analysis.attention.packing import Packed, pack
from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.answers import answer_row
from attcot_analysis.measures.causal_plan import (
    Cut,
    Item,
    Keys,
    Kind,
    Rows,
    Window,
    check_choices,
    checked_windows,
    layer_windows,
    plan_cuts,
    plan_items,
)
from attcot_analysis.measures.causal_tables import COLUMNS, causal_curve, causal_items
from attcot_analysis.measures.controls import response_text
from attcot_analysis.models import Encoded, Mllm, Span, encode_problem, prefix_ids
from attcot_analysis.models import generate as respond
from attcot_analysis.problems import Problem

__all__ = ["causal_access", "causal_curve", "causal_items", "layer_windows"]

_EDITS: dict[str, type[Knockout] | type[MeanValue]] = {
    "knockout": Knockout,
    "mean_value": MeanValue,
}


def causal_access(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Sequence[int] | str],
    *,
    kinds: Sequence[Kind] = ("knockout", "mean_value", "removal"),
    windows: Sequence[Window] | None = None,
    steps: Sequence[int] | Sequence[float] | None = None,
    rows: Rows = "both",
    keys: Keys = "image",
    generate: bool = False,
    empty: Literal["error", "skip"] = "error",
    batch_size: int = 16,
    max_new_tokens: int = 256,
    progress: bool = False,
) -> pd.DataFrame:
    """Take the image from the rows after step k on, and see what becomes of the answer.

    Kinds:

    * ``"knockout"``: the edges row → image are cut (`Knockout`);
    * ``"mean_value"``: they carry the mean image value instead (`MeanValue`), so that no attention
      is freed to go elsewhere;
    * ``"removal"``: the prompt is encoded again without the image, the first k steps follow word
      for word, and the model goes on from text only, in all layers;
    * ``"none"``: nothing is changed, as a control.

    Knockout and removal answer different questions. Under a knockout from step k on, the rows
    before it (question and first steps) have read the image and keep what they read; later rows
    may still learn of it from them. It asks for *direct* access. Removal leaves nothing but the
    words. An answer that survives knockout and not removal lives on what earlier rows stored.

    Rationale ``"fixed"``: the response's rationale stays, word for word, and the answer is forced
    after all of it. Removal then leaves no row with an image whatever k is, so it has one fixed
    row per item, at k = K. ``"regenerated"`` (with ``generate=True``): the first k steps stay, the
    rest is written again (greedily), all of it under the cut.

    Args:
        mllm: The model.
        problems: The items.
        responses: Per item the model's response, as token ids (as in the ``ids`` of
            `answer_problems`) or text; for the regenerated form it should be a greedy one, the
            kind ``"none"`` shows whether it is.
        kinds: Any of the above.
        windows: Layers to intervene in, as ``(first, last)``, both included; default all layers
            at once. See `layer_windows`.
        steps: From which steps on: whole numbers k (items with fewer steps have no row for them)
            or shares of each item's K such as ``(0.0, 0.5)``, rounded; default 0 to K.
        rows: ``"rationale"``: rows of the rationale's tokens from step k + 1 on; ``"answer"``: rows
            of the forced answer with its cue (k is K); ``"both"``. Regenerated responses are cut
            in all rows, so they cannot go with ``"rationale"``.
        keys: What is cut off, ``"image"``, or as a control the prompt's text: ``"system"`` (all
            before the image) or ``"question"`` (all after it).
        generate: Regenerate responses too; costs one generation per kind, window and k.
        empty: What to do with responses that have no rationale step: raise an error, or leave
            the item out.
        batch_size: Items per forward pass or generation.
        max_new_tokens: Length limit of what is regenerated.
        progress: Show a progress bar.

    Returns:
        One row per item, kind, window, k and rationale:

        * ``item``, ``kind``, ``keys``, ``rows`` (``"both"`` where rationale is regenerated),
          ``first_layer``, ``last_layer``, ``k``, ``n_steps``, ``rationale``;
        * ``answer_before``: fixed: the candidate most probable after the rationale with nothing
          cut; regenerated: the response's own answer (missing if none can be told);
          ``answer_after``: likewise under the cut; ``correct_before``, ``correct_after``;
          ``flipped``: the answers differ (missing without an answer before);
          ``delta_accuracy``: correct before − after, so high means that the edges were needed;
        * fixed rows only: ``log_p_before``, ``log_p_after`` (nats, normalised over the
          candidates) of ``answer_before``, ``delta_log_p``: before − after, high when needed;
          ``log_p_right_before``, ``log_p_right_after``, ``delta_log_p_right``: the same of the
          right answer.

    Raises:
        MeasureError: If the arguments do not fit together, or a response has no rationale step
            (``empty="error"``).

    Source: knockout after Geva et al. (arXiv 2304.14767), in layers × time as arXiv 2607.12815;
    removal after TVC (arXiv 2503.13360); mean value after CFPO (arXiv 2606.23206).
    """
    if len(problems) != len(responses) or not problems:
        raise MeasureError(
            f"Got {len(problems)} problems and {len(responses)} responses; give one response per "
            "problem, and at least one problem."
        )
    check_choices(kinds, rows, keys, empty, generate=generate)
    windows = checked_windows(windows, mllm.n_layers)
    items = plan_items(mllm, problems, responses, steps, rows, empty)
    found: list[dict[str, Any]] = []
    with attached(mllm.model):
        starts = range(0, len(items), batch_size)
        for start in tqdm(starts, desc="causal access", disable=not progress):
            batch = _Batch(mllm, items[start : start + batch_size], keys)
            found += batch.fixed(list(plan_cuts(batch.items, kinds, windows, mllm.n_layers)), rows)
            if generate:
                cuts = plan_cuts(batch.items, kinds, windows, mllm.n_layers)
                found += batch.regenerated(cuts, max_new_tokens)
    table = pd.DataFrame(found, columns=list(COLUMNS)).assign(keys=keys)
    return table.astype({"flipped": "boolean"})


class _Batch:
    """Items measured together."""

    def __init__(self, mllm: Mllm, items: Sequence[Item], keys: Keys) -> None:
        self.mllm, self.items, self.keys = mllm, items, keys
        self.encoded = [encode_problem(mllm, one.problem, response=one.response) for one in items]

    def fixed(self, cuts: Sequence[Cut], rows: Rows) -> Iterator[dict[str, Any]]:
        """Table rows with the responses' own rationales."""
        forced = self._forced(self.encoded)
        before = forced.read()
        for cut in cuts:
            if cut.kind == "removal":
                continue
            after = forced.read(*self._edits(cut, forced.packed, rows))
            for item, one, other in zip(self.items, before, after, strict=True):
                if cut.slot < len(item.ks):
                    row = _row(item, cut, item.ks[cut.slot], "fixed", rows)
                    yield row | _probabilities(item, one, other)
        removals = [cut for cut in cuts if cut.kind == "removal"][:1]
        for cut in removals:
            texts = [
                encode_problem(self.mllm, item.problem, response=one.response_ids, text_only=True)
                for item, one in zip(self.items, self.encoded, strict=True)
            ]
            after = self._forced(texts).read()
            for item, one, other in zip(self.items, before, after, strict=True):
                row = _row(item, cut, item.n_steps, "fixed", "both")
                yield row | _probabilities(item, one, other)

    def regenerated(self, cuts: Iterable[Cut], max_new_tokens: int) -> Iterator[dict[str, Any]]:
        """Table rows with responses written again from step k on."""
        for cut in cuts:
            here = [at for at, item in enumerate(self.items) if cut.slot < len(item.ks)]
            items = [self.items[at] for at in here]
            prompts = [self._prompt(at, cut) for at in here]
            edits: list[Intervention | Revision] = []
            if cut.kind in _EDITS:
                # Padded on the left by generate(), so all prompts end at the last position, and
                # its row writes the first token.
                longest = max(len(prompt.input_ids) for prompt in prompts)
                rows = torch.zeros(len(here), longest, dtype=torch.bool)
                rows[:, -1] = True
                keys = torch.zeros_like(rows)
                for at, prompt in enumerate(prompts):
                    keys[at, self._keys(prompt) + longest - len(prompt.input_ids)] = True
                edits = [_EDITS[cut.kind](rows, keys, cut.layers, generated=True)]
            with intervening(*edits):
                written = respond(
                    self.mllm, prompts, max_new_tokens=max_new_tokens, batch_size=len(prompts)
                )
            for item, prompt, new in zip(items, prompts, written, strict=True):
                ids = (*prompt.response_ids, *new.ids)
                whole = replace(new, ids=ids, text=response_text(self.mllm, ids))
                answer = answer_row(item.problem, whole, mode="cot")["answer"]
                row = _row(item, cut, item.ks[cut.slot], "regenerated", "both")
                yield row | _answers(item, item.answer, answer)

    def _forced(self, encoded: Sequence[Encoded]) -> ForcedAnswers:
        packed = pack(
            self.mllm,
            encoded,
            [item.tokens for item in self.items],
            steps=[[item.n_steps] for item in self.items],
            names=[item.problem.id for item in self.items],
        )
        return ForcedAnswers(self.mllm, packed, encoded)

    def _edits(self, cut: Cut, packed: Packed, rows: Rows) -> list[Intervention | Revision]:
        """The cut on a packed batch, whose branches hold the answers' cues."""
        if cut.kind not in _EDITS:
            return []
        chosen = torch.zeros(packed.inputs["input_ids"].shape, dtype=torch.bool)
        keys = torch.zeros_like(chosen)
        for at, (item, encoded) in enumerate(zip(self.items, self.encoded, strict=True)):
            if cut.slot >= len(item.ks):
                continue
            ends = encoded.layout.step_ends
            # The last row of the rationale predicts the cue: it is the answer's first row.
            if rows != "answer":
                chosen[at, ends[item.ks[cut.slot]] - 1 : ends[-1] - 1] = True
            if rows != "rationale":
                chosen[at, ends[-1] - 1] = True
                chosen[at, packed.base_length :] = True
            keys[at, self._keys(encoded)] = True
        return [_EDITS[cut.kind](chosen, keys, cut.layers)]

    def _keys(self, encoded: Encoded) -> Tensor:
        found = torch.as_tensor(getattr(encoded.layout, self.keys))
        if not len(found):
            raise MeasureError(
                f"A prompt has no {self.keys} tokens to cut off; choose other keys for this model."
            )
        return found

    def _prompt(self, at: int, cut: Cut) -> Encoded:
        """The prompt and the response's first k steps."""
        item, encoded = self.items[at], self.encoded[at]
        ids = prefix_ids(self.mllm, encoded, item.ks[cut.slot])
        if cut.kind == "removal":
            return encode_problem(self.mllm, item.problem, response=ids, text_only=True)
        end = encoded.prompt_length + len(ids)
        prompt = encoded.input_ids[: encoded.prompt_length]
        types = encoded.token_types
        if types is not None:
            types = torch.nn.functional.pad(types[: encoded.prompt_length], (0, len(ids)))
        layout = replace(
            encoded.layout,
            n_tokens=end,
            response=Span(encoded.prompt_length, end),
            think=None,
            steps=(),
            answer=None,
            cuts=(),
        )
        return replace(
            encoded,
            input_ids=torch.cat([prompt, torch.tensor(ids).to(prompt)]),
            token_types=types,
            layout=layout,
        )


def _row(item: Item, cut: Cut, k: int, rationale: str, rows: Rows) -> dict[str, Any]:
    return {
        "item": item.problem.id,
        "kind": cut.kind,
        "rows": rows,
        "first_layer": cut.window[0],
        "last_layer": cut.window[1],
        "k": k,
        "n_steps": item.n_steps,
        "rationale": rationale,
    }


def _answers(item: Item, before: str | None, after: str | None) -> dict[str, Any]:
    right = item.problem.answer
    return {
        "answer_before": before,
        "answer_after": after,
        "correct_before": before == right,
        "correct_after": after == right,
        "flipped": None if before is None else after != before,
        "delta_accuracy": float(before == right) - float(after == right),
    }


def _probabilities(
    item: Item, before: NDArray[np.float64], after: NDArray[np.float64]
) -> dict[str, Any]:
    names = item.problem.candidates
    own, right = int(before.argmax()), names.index(item.problem.answer)
    return _answers(item, names[own], names[int(after.argmax())]) | {
        "log_p_before": before[own],
        "log_p_after": after[own],
        "delta_log_p": before[own] - after[own],
        "log_p_right_before": before[right],
        "log_p_right_after": after[right],
        "delta_log_p_right": before[right] - after[right],
    }
