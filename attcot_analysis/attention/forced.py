"""Forced answers read again and again: the same packed batch under one intervention after another.

Interventions change rows of the response only, so what lies before the first of them is run once
and kept, with the image.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from torch import Tensor

from attcot_analysis.attention.block_masks import TYPE_KEYS
from attcot_analysis.attention.hook import Intervention, Revision, attached, intervening
from attcot_analysis.attention.packing import Packed
from attcot_analysis.models import Encoded, Mllm, evaluating


class ForcedAnswers:
    """One packed batch, to be read under any number of interventions.

    Attributes:
        packed: The batch; one branch per item.
        start: Tokens before this position are run once. Interventions must leave their rows
            alone. 0 where prompts differ so much in length that a shorter one's response starts
            before a longer one's image ends, and in models with sliding attention.
    """

    def __init__(self, mllm: Mllm, packed: Packed, items: Sequence[Encoded]) -> None:
        """Prepare a batch.

        Args:
            mllm: The model it was packed for.
            packed: From `pack`, right-padded.
            items: The items it was packed from.
        """
        self.packed = packed
        self._mllm = mllm
        self._cache: Any = None
        first = min(item.layout.step_ends[0] for item in items) - 1
        seen = max((int(item.layout.image.max(initial=-1)) for item in items), default=-1)
        whole = isinstance(packed.inputs["attention_mask"], Tensor)
        self.start = first if whole and seen < first else 0

    def read(self, *edits: Intervention | Revision) -> list[NDArray[np.float64]]:
        """Per item the candidates' log-probabilities under the edits, normalised over them.

        Returns:
            Per item ``(n_candidates,)`` in nats, of its last branch.
        """
        model = self._mllm.model
        with torch.no_grad(), evaluating(model), attached(model):
            if self.start and self._cache is None:
                self._cache = model(**self._before(), use_cache=True).past_key_values
            with intervening(*edits):
                logits = model(**self._after()).logits
            if self.start:
                self._cache.crop(self.start - self.packed.inputs["input_ids"].shape[1])
            read = self.packed.log_probs(logits)
        return [log_softmax(one[-1].double().cpu().numpy()) for one in read]

    def _before(self) -> dict[str, Any]:
        inputs, start = self.packed.inputs, self.start
        by_token = ("input_ids", *TYPE_KEYS)
        cut = {k: v[:, :start] if k in by_token else v for k, v in inputs.items()}
        cut["attention_mask"] = inputs["attention_mask"][..., :start, :start]
        cut["position_ids"] = inputs["position_ids"][..., :start]
        return cut | {"logits_to_keep": 1}

    def _after(self) -> dict[str, Any]:
        inputs, start, keep = self.packed.inputs, self.start, self.packed.keep
        if not start:
            return inputs | {"logits_to_keep": keep, "use_cache": False}
        return {
            "input_ids": inputs["input_ids"][:, start:],
            "attention_mask": inputs["attention_mask"][..., start:, :],
            "position_ids": inputs["position_ids"][..., start:],
            "past_key_values": self._cache,
            "use_cache": True,
            "logits_to_keep": keep - start,
        }
