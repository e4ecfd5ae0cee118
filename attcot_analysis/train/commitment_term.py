"""L_commit of the Att-CoT objective: forced answers that are fixed before the rationale is done."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from attcot_analysis.train.objective import AttCoTConfig


def commitment_loss(
    log_probs: Sequence[Tensor],
    steps: Sequence[Sequence[int]],
    n_steps: Sequence[int],
    answers: Sequence[int],
    config: AttCoTConfig,
) -> Tensor:
    """L_commit: forced answers that are already fixed early in the rationale.

    Args:
        log_probs: Per item ``(n_k, n_candidates)`` from `attcot_analysis.attention.packing`.
        steps: Per item the k of each row of `log_probs`, ascending.
        n_steps: Per item K.
        answers: Per item the index of the right answer among its candidates.
        config: Form and margin.

    Returns:
        fp32 scalar, the mean over items of the mean over their early steps.
    """
    p, real, done = _stacked(log_probs, steps, n_steps)
    if config.commit_form == "confidence":
        found = p.amax(dim=-1)
        n_candidates = [scores.shape[1] for scores in log_probs]
        chance = 1 / torch.tensor(n_candidates, dtype=p.dtype, device=p.device)
        start = (chance + config.commit_margin).clamp(max=1)[:, None]
    else:
        right = torch.tensor(answers, device=p.device)[:, None, None]
        found = p.gather(2, right.expand(-1, p.shape[1], 1))[..., 0]
        start = found[:, :1].detach()
    own = config.commit_form == "answer"
    rising = own if config.commit_margins is None else config.commit_margins == "rising"
    falling = own if config.commit_weights is None else config.commit_weights == "falling"
    margin = start + (1 - start) * done if rising else start
    # Unlike clamp, relu has no gradient at 0, where p_0 stands against the margin it sets itself.
    excess = torch.relu(found - margin)
    excess = (1 - done) * excess if falling else excess
    return ((excess * real).sum(1) / real.sum(1)).mean()


@torch.no_grad()
def commitment_notes(
    log_probs: Sequence[Tensor],
    steps: Sequence[Sequence[int]],
    n_steps: Sequence[int],
    answers: Sequence[int],
) -> dict[str, Tensor]:
    """What to log about forced answers, as means over items; arguments as of `commitment_loss`.

    Returns:
        ``early_confidence``, the largest candidate probability at the first k; and
        ``commitment_position``, the first k, over K, from which on the forced answer is the right
        one at all k read; 1 where it is not at the last of them.
    """
    p, real, done = _stacked(log_probs, steps, n_steps)
    right = torch.tensor(answers, device=p.device)[:, None]
    wrong = (p.argmax(-1) != right) & (real > 0)
    # 0 if none is wrong, else one past the last that is.
    first = (wrong * torch.arange(1, p.shape[1] + 1, device=p.device)).amax(1, keepdim=True)
    never = first[:, 0] == real.sum(1)
    settled = done.gather(1, first.clamp(max=p.shape[1] - 1))[:, 0]
    return {
        "early_confidence": p[:, 0].amax(-1).mean(),
        "commitment_position": torch.where(never, 1.0, settled).mean(),
    }


def _stacked(
    log_probs: Sequence[Tensor], steps: Sequence[Sequence[int]], n_steps: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates' probabilities ``(B, n_k, C)``, which k are real ``(B, n_k)``, and their k/K."""
    longest = max(len(scores) for scores in log_probs)
    widest = max(scores.shape[1] for scores in log_probs)
    padded = [
        F.pad(
            F.pad(scores, (0, widest - scores.shape[1]), value=-torch.inf),
            (0, 0, 0, longest - len(scores)),
        )
        for scores in log_probs
    ]
    p = torch.stack(padded).float().softmax(dim=-1)
    k = [[*own, *[-1] * (longest - len(own))] for own in steps]
    places = torch.tensor(k, dtype=p.dtype, device=p.device)
    total = torch.tensor(n_steps, dtype=p.dtype, device=p.device)[:, None]
    return p, (places >= 0).to(p.dtype), places.clamp(min=0) / total
