"""How uncertain a model is where it chooses a token, and where it is most uncertain."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor

from attcot_analysis.models import Mllm

_LOGITS_AT_ONCE = 2**24
"""Logits held at once (64 MB in fp32)."""


@torch.no_grad()
def row_entropies(mllm: Mllm, hidden: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy of the distribution that a token is drawn from, at each row.

    Args:
        mllm: The model.
        hidden: ``(N, d)`` what its backbone put out at the rows, final norm included.
        temperature: Of the sampling; the logits are divided by it.

    Returns:
        ``(N,)`` fp32, in nats.
    """
    head = mllm.model.get_output_embeddings()
    weight, bias = head.weight, getattr(head, "bias", None)
    if isinstance(weight, DTensor):
        weight = weight.full_tensor()
        bias = bias.full_tensor() if isinstance(bias, DTensor) else bias
    cap = getattr(mllm.text_config, "final_logit_softcapping", None)
    found = [hidden.new_zeros(0, dtype=torch.float32)]
    with torch.autocast(hidden.device.type, enabled=False):
        for part in hidden.to(weight.dtype).split(max(1, _LOGITS_AT_ONCE // len(weight))):
            logits = F.linear(part, weight, bias).float()
            if cap is not None:
                logits = torch.tanh(logits / cap) * cap
            log_probs = (logits / temperature).log_softmax(-1)
            found.append(-(log_probs.exp() * log_probs).sum(-1))
    return torch.cat(found)


def most_uncertain(entropies: Tensor, share: float) -> Tensor:
    """The places of the largest entropies: ``max(1, floor(share * N))`` of them, ascending.

    The number is that of SAYO's published code (arXiv 2602.08241), which takes a share of 0.3.

    Args:
        entropies: ``(N,)``, N at least 1; of equal ones the first count.
        share: Above 0, up to 1.
    """
    # A share such as 0.3 of 10 is a little less than 3 in floating point.
    wanted = max(1, int(share * len(entropies) + 1e-9))
    order = torch.sort(entropies, descending=True, stable=True).indices
    return order[:wanted].sort().values
