"""The Att-CoT objective: two penalties that are added to the cross-entropy of CoT fine-tuning.

L = L_CE + λ_vis · L_vis + λ_commit · L_commit

The formulas of the Att-CoT paper (arXiv 2606.01558) are not public to us. What stands here is a
reconstruction from its abstract: L_vis keeps the attention of rationale rows on image tokens
above a target, L_commit (`attcot_analysis.train.terms`) penalises answers that are
already fixed after the first steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import Mllm
from attcot_analysis.train.settings import Share, SomeShare, Weight, check_settings


@dataclass(frozen=True)
class AttCoTConfig:
    """Weights and forms of the two terms; all zero is plain CoT-SFT, exactly.

    Where the paper is silent, each default says where it comes from: another paper, or
    *reconstruction* (our reading of what the abstract asks for), or *ours* (what the testbed
    taught us).

    Attributes:
        lambda_vis: Weight of the visual-access term, from 0. AVAR's code (arXiv 2603.03825) has
            0.15, which is what `reconstruction` takes.
        lambda_commit: Weight of the commitment term, from 0. Reconstruction: 0.05 to 0.1.
        vis_form: ``"hinge"``: mean of ``max(0, target - mass)``, bounded and silent once access
            is enough (reconstruction); ``"log"``: mean of ``-log(mass + 1e-6)`` (reconstruction,
            after AVAR, which takes the log of the mean over rows in every layer and head);
            ``"price"``: the mean mass itself, the opposite of a cure, to plant the failure that
            diagnostics must find (ours).
        vis_region: What a row is to look at. ``"image"``: all image tokens (reconstruction: the
            abstract asks for visual-token access and names no region); ``"evidence"``: the
            evidence boxes of the step that a row belongs to, rows of steps without boxes left out
            (ours); ``"sink_free"``: image tokens that are no attention sinks where a layer takes
            them in (VisAttnSink, arXiv 2503.03321, found as `attcot_analysis.attention.sinks` finds
            them, without gradient), since mass on sinks is easily raised and shows nothing.
        vis_rows: Whose rows count: ``"rationale"`` (the abstract: access during rationale
            generation), or ``"question"``, the prompt's text tokens behind the image, as in
            AVAR's loss (which counts image tokens, too): it says nothing about the rationale.
        vis_target: The hinge's target mass, between 0 and 1. 0.6 is ours, a little above what
            the testbed's Qwen2.5-VL has before fine-tuning. Take the target of a model from
            itself with `visual_target`: large models look far less.
        vis_layers: Layers whose mass counts, or ``"all"``; ``None`` takes the middle third, where
            VISTA (arXiv 2605.11931) and knockout studies (arXiv 2411.17491, 2411.18620) locate
            visual reading.
        vis_heads: ``(layer, head)`` pairs whose mass counts, as `visual_heads` finds them
            (image-centric heads, arXiv 2503.03321); ``None`` takes all heads of ``vis_layers``
            (reconstruction). ``vis_layers`` is not looked at where heads are named.
        commit_form: ``"confidence"``: hinge on the largest candidate probability above chance
            plus ``commit_margin`` (ours: an early wrong answer is a commitment, too);
            ``"answer"``: hinge on the right answer's probability p_k above the margin
            ``m_k = p_0 + (1 - p_0) k/K``, weight ``1 - k/K`` (reconstruction). p_0 has no
            gradient in the margin, so that k = 0 itself is never penalised.
        commit_margin: Slack of the ``"confidence"`` form, in probability (ours).
        commit_margins: ``"constant"``, or ``"rising"`` from the margin at k = 0 to 1 at k = K;
            ``None`` takes what the form is defined with: constant for ``"confidence"``, rising
            for ``"answer"``.
        commit_weights: ``"uniform"``, or ``"falling"``, ``1 - k/K``; ``None`` takes uniform for
            ``"confidence"`` and falling for ``"answer"``.
        commit_until: The share of steps that counts as early: branches k with k/K below it. 0.5
            is ours: behind the last but one step stands almost the final answer's context, and a
            penalty there destroys the answer; the reconstruction takes all, 1.
        warmup: Share of the training steps over which both weights rise linearly
            (reconstruction: the first tenth).

    Raises:
        TrainingError: If a value is out of range.
    """

    lambda_vis: Weight = 0.0
    lambda_commit: Weight = 0.0
    vis_form: Literal["hinge", "log", "price"] = "hinge"
    vis_region: Literal["image", "evidence", "sink_free"] = "image"
    vis_rows: Literal["rationale", "question"] = "rationale"
    vis_target: Share = 0.6
    vis_layers: tuple[int, ...] | Literal["all"] | None = None
    vis_heads: tuple[tuple[int, int], ...] | None = None
    commit_form: Literal["confidence", "answer"] = "confidence"
    commit_margin: Share = 0.1
    commit_margins: Literal["constant", "rising"] | None = None
    commit_weights: Literal["uniform", "falling"] | None = None
    commit_until: SomeShare = 0.5
    warmup: Share = 0.1

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_settings(self)
        for name in ("vis_layers", "vis_heads"):
            if getattr(self, name) is not None and not getattr(self, name):
                raise TrainingError(f"{name} is empty; name at least one, or None.")
        if self.vis_rows == "question" and self.vis_region == "evidence":
            raise TrainingError(
                "Question tokens belong to no step, so they have no evidence boxes; use "
                "vis_region='image' with vis_rows='question'."
            )

    @classmethod
    def reconstruction(cls, lambda_vis: float = 0.15, lambda_commit: float = 0.1) -> "AttCoTConfig":
        """The form nearest to what the paper's abstract says, all steps and the whole image.

        L_vis is a hinge on visual mass in the middle third of the layers; L_commit a hinge on
        the right answer's forced probability with rising margins and falling weights. The
        weights are AVAR's 0.15 for attention and the upper end of 0.05 to 0.1 for commitment.
        """
        return cls(
            lambda_vis=lambda_vis,
            lambda_commit=lambda_commit,
            commit_form="answer",
            commit_until=1.0,
        )

    @property
    def active(self) -> bool:
        """Whether any term has a weight."""
        return self.lambda_vis > 0 or self.lambda_commit > 0

    def layers(self, n_layers: int) -> tuple[int, ...]:
        """The layers L_vis reads in a model of `n_layers`."""
        if self.vis_heads is not None:
            chosen = tuple(sorted({layer for layer, _ in self.vis_heads}))
        elif self.vis_layers == "all":
            return tuple(range(n_layers))
        elif self.vis_layers is not None:
            chosen = self.vis_layers
        else:
            first = n_layers // 3
            return tuple(range(first, max(first + 1, n_layers - n_layers // 3)))
        outside = [layer for layer in chosen if not 0 <= layer < n_layers]
        if outside:
            raise TrainingError(
                f"The visual term names layers {outside}, but the model has layers 0 to "
                f"{n_layers - 1}."
            )
        return chosen

    def heads(self, layer: int, n_heads: int) -> tuple[int, ...]:
        """The heads of a layer that L_vis averages."""
        if self.vis_heads is None:
            return tuple(range(n_heads))
        chosen = tuple(head for at, head in self.vis_heads if at == layer)
        outside = [head for head in chosen if not 0 <= head < n_heads]
        if outside:
            raise TrainingError(
                f"vis_heads names heads {outside} of layer {layer}, which has heads 0 to "
                f"{n_heads - 1}."
            )
        return chosen

    def early_steps(self, n_steps: int) -> tuple[int, ...]:
        """The k whose forced answers L_commit looks at, in a rationale of `n_steps`."""
        return tuple(k for k in range(n_steps) if k < self.commit_until * n_steps)

    def ramp(self, progress: float) -> float:
        """Factor of both weights when a share `progress` of the training is done."""
        return 1.0 if self.warmup == 0 else min(1.0, progress / self.warmup)


def visual_mass(masses: Mapping[int, Tensor], config: AttCoTConfig) -> Tensor:
    """Mean mass of each row over the chosen heads, layers weighing by their heads.

    Args:
        masses: Layer → the mass of each row on its region, ``(B, H, R)``, in [0, 1].
        config: Which heads.

    Returns:
        ``(B, R)`` fp32.
    """
    chosen = [
        mass.float()[:, list(config.heads(layer, mass.shape[1]))] for layer, mass in masses.items()
    ]
    return torch.cat(chosen, dim=1).mean(dim=1)


def visual_access_loss(mass: Tensor, counted: Tensor, config: AttCoTConfig) -> Tensor:
    """L_vis: too little attention from rows to the image.

    Args:
        mass: ``(B, R)`` visual mass of each row, from `visual_mass`.
        counted: ``(B, R)`` bool, the rows that count.
        config: Form and target.

    Returns:
        fp32 scalar, the mean over items of the mean over their rows, so that it does not depend
        on how a batch is split into equal parts; an item without rows counts as 0.
    """
    if config.vis_form == "price":
        loss = mass
    elif config.vis_form == "hinge":
        loss = torch.relu(config.vis_target - mass)
    else:
        loss = -(mass.clamp(min=0) + 1e-6).log()
    weight = counted.to(loss.dtype)
    return ((loss * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)).mean()


def readable_layers(mllm: Mllm, config: AttCoTConfig) -> tuple[int, ...]:
    """The layers of an objective that have full attention in a model.

    Most image tokens are out of a sliding window's sight, so that mass read there says nothing.

    Raises:
        TrainingError: If the objective names layers or heads the model does not have, or a layer
            without full attention, or if none is left.
    """
    chosen = config.layers(mllm.n_layers)
    for layer in chosen:
        config.heads(layer, mllm.n_heads)
    kinds = getattr(mllm.text_config, "layer_types", None)
    if kinds is None:
        slides = getattr(mllm.text_config, "sliding_window", None) is not None
        kinds = ["sliding_attention" if slides else "full_attention"] * mllm.n_layers
    readable = tuple(layer for layer in chosen if kinds[layer] == "full_attention")
    named = config.vis_heads is not None or isinstance(config.vis_layers, tuple)
    if config.lambda_vis > 0 and (not readable or (named and readable != chosen)):
        full = [layer for layer, kind in enumerate(kinds) if kind == "full_attention"]
        raise TrainingError(
            f"Of layers {list(chosen)}, whose attention L_vis is to read, only {list(readable)} "
            f"have full attention and so see the image; set vis_layers to some of {full}."
        )
    return readable
