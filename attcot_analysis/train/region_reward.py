"""SAYO's region reward: how much of the attention to the image goes to its evidence boxes.

``tanh(log rho)``, where rho is the attention of generated tokens per image token on the evidence
boxes, over that per image token of the whole image (arXiv 2602.08241, from its published code: last
layer, the 30 % of tokens with the highest entropy). It equals ``(rho^2 - 1) / (rho^2 + 1)``: 0
where the boxes get their share and no more, towards 1 where they get all, towards -1 where they get
nothing. The paper's focus score is half of one more than that, in [0, 1].

The masses are the probe's, from one teacher-forced pass over the responses, behind one over their
prompts; boxes become image tokens by each family's own grid. What differs from the published code,
and what is our reconstruction, is in ``docs/sayo.md``.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from attcot_analysis.attention.probe import LayerCols, Probe, run_probe
from attcot_analysis.attention.sinks import SinkFinder, SinkRule
from attcot_analysis.errors import TrainingError
from attcot_analysis.models import Encoded, Mllm
from attcot_analysis.train.entropy import most_uncertain, row_entropies
from attcot_analysis.train.region_config import RegionRewardConfig
from attcot_analysis.train.region_rows import Boxes, Missing, Plan, plan_rows
from attcot_analysis.train.shared_prompts import run_prompts, shared_prompts

EPSILON = 1e-8
"""Added to both means, as in the published code."""


@dataclass(frozen=True, eq=False)
class RegionAttention:
    """How one generated response looked at its evidence.

    Attributes:
        rows: Positions of the rows that could count, ``(R,)``; the row of token t is t - 1.
        entropy: At each of them, in nats, ``(R,)``.
        counted: Which of them count, ``(R,)`` bool.
        box_density: Mean attention per image token of the boxes, over layers, heads and counted
            rows.
        image_density: The same of the whole image.
        visual_mass: Mean attention on all image tokens, in [0, 1].
        box_mass: Mean attention on the image tokens of the boxes, each as far as it is covered.
        missing: Why there is no ratio, ``None`` if there is one; the four values are then NaN.
    """

    rows: npt.NDArray[np.int64]
    entropy: npt.NDArray[np.float64]
    counted: npt.NDArray[np.bool_]
    box_density: float = float("nan")
    image_density: float = float("nan")
    visual_mass: float = float("nan")
    box_mass: float = float("nan")
    missing: Missing | None = None

    @property
    def ratio(self) -> float | None:
        """Rho, from 0 on; ``None`` if it cannot be computed."""
        if self.missing is not None:
            return None
        return (self.box_density + EPSILON) / (self.image_density + EPSILON)

    @property
    def reward(self) -> float | None:
        """``tanh(log rho)``, in [-1, 1]; ``None`` if it cannot be computed."""
        ratio = self.ratio
        return None if ratio is None else squash(ratio)


def squash(ratio: float) -> float:
    """``tanh(log ratio)`` of a ratio from 0 on, without a logarithm of 0."""
    return (ratio * ratio - 1) / (ratio * ratio + 1)


def region_attention(
    mllm: Mllm,
    items: Sequence[Encoded],
    boxes: Sequence[Boxes],
    config: RegionRewardConfig | None = None,
    *,
    temperature: float = 1.0,
    batch_size: int = 16,
) -> list[RegionAttention]:
    """Read how generated responses looked at their evidence, from one pass per batch.

    Items that share prompt and image tensors, as those encoded inside `remembering` do, share the
    pass over them as well. Every item goes through the model, also one without a reward, so that
    several processes with equally many items make equally many passes.

    Args:
        mllm: The model.
        items: Prompts with the responses, which count up to their first end token.
        boxes: Per item and rationale step the evidence boxes.
        config: What to look at; default `RegionRewardConfig()`.
        temperature: The one the responses were sampled at.
        batch_size: Items per pass.

    Raises:
        TrainingError: If items and boxes do not fit, or a layer cannot be read.
    """
    config = config or RegionRewardConfig()
    if len(items) != len(boxes):
        raise TrainingError(f"{len(items)} responses came with boxes for {len(boxes)}; give both.")
    layers = config.chosen_layers(mllm)
    plans = [plan_rows(mllm, *one, config) for one in zip(items, boxes, strict=True)]
    found: list[RegionAttention] = []
    for start in range(0, len(items), batch_size):
        part = slice(start, start + batch_size)
        found += _read(mllm, items[part], plans[part], layers, config, temperature)
    return found


def _read(
    mllm: Mllm,
    items: Sequence[Encoded],
    plans: Sequence[Plan],
    layers: tuple[int, ...],
    config: RegionRewardConfig,
    temperature: float,
) -> list[RegionAttention]:
    shared = shared_prompts(mllm, items)
    cols = shared.columns(items, [plan.cols for plan in plans])
    starts = [item.prompt_length - 1 for item in items]
    places = [plan.rows - start for plan, start in zip(plans, starts, strict=True)]
    rows = pad_sequence(places, batch_first=True, padding_value=-1)
    if not rows.shape[1]:
        rows = torch.full((len(items), 1), -1)
    wanted = [int(own.max()) + 1 if len(own) else 0 for own in places]
    layer_cols: LayerCols | None = None
    amounts = dict.fromkeys(layers, cols.sum(1))
    with contextlib.ExitStack() as stack:
        if config.sink_free:
            mask = shared.inputs["attention_mask"]
            finder = SinkFinder(mllm, SinkRule(), mask, layers)
            stack.enter_context(finder.watching())

            def layer_cols(layer: int, given: Tensor) -> Tensor:
                own = given.masked_fill(finder.tokens[layer][shared.which][..., None], 0)
                amounts[layer] = own.sum(1)
                return own

        batch, forward = run_prompts(mllm, shared, items, wanted)
    with _last_states(mllm, rows) as kept:
        probe = Probe(layers, layer_cols=layer_cols)
        masses = run_probe(mllm, batch, probe, rows, cols, forward)
    entropies = row_entropies(mllm, kept[0], temperature).double().cpu()
    found, first = [], 0
    for at, plan in enumerate(plans):
        number = len(plan.rows)
        own = {layer: mass[at, :, :number].double().cpu() for layer, mass in masses.items()}
        tokens = {layer: amounts[layer][at].double().cpu() for layer in layers}
        found.append(reduce_masses(plan, entropies[first : first + number], own, tokens, config))
        first += number
    return found


def reduce_masses(
    plan: Plan,
    entropy: Tensor,
    masses: Mapping[int, Tensor],
    amounts: Mapping[int, Tensor],
    config: RegionRewardConfig,
) -> RegionAttention:
    """One item's values from the masses of its rows.

    Args:
        plan: Its rows and what they are held against.
        entropy: At each row, ``(R,)``.
        masses: Layer → ``(H, R, C)``, the mass of each row on each column of the plan.
        amounts: Layer → ``(C,)``, how many image tokens each column holds.
        config: How many rows count.
    """
    counted = torch.zeros(len(plan.rows), dtype=torch.bool)
    if plan.missing is None:
        counted[most_uncertain(entropy, config.entropy_top)] = True
    base: dict[str, Any] = {
        "rows": plan.rows.numpy(),
        "entropy": entropy.numpy(),
        "counted": counted.numpy(),
    }
    if plan.missing is not None:
        return RegionAttention(**base, missing=plan.missing)
    groups = plan.groups[counted]
    sums: list[list[Tensor]] = [[], [], [], []]
    for layer, mass in masses.items():
        # In this layer all tokens of a row's boxes may be sinks: it then says nothing there.
        seen = amounts[layer][groups] > 0
        if not bool(seen.any()):
            continue
        chosen = mass[:, counted][:, seen]
        column = groups[seen].expand(len(chosen), -1)[..., None]
        boxes, image = chosen.gather(2, column)[..., 0], chosen[..., 0]
        values = (
            boxes / amounts[layer][groups[seen]],
            image / amounts[layer][0],
            image,
            boxes,
        )
        for kept, value in zip(sums, values, strict=True):
            kept.append(value.mean())
    if not sums[0]:
        return RegionAttention(**base, missing="sinks")
    box_density, image_density, visual_mass, box_mass = map(_mean, sums)
    return RegionAttention(
        **base,
        box_density=box_density,
        image_density=image_density,
        visual_mass=visual_mass,
        box_mass=box_mass,
    )


def _mean(values: Sequence[Tensor]) -> float:
    return float(torch.stack(list(values)).mean())


@contextlib.contextmanager
def _last_states(mllm: Mllm, rows: Tensor) -> Iterator[list[Tensor]]:
    """Keep what the backbone puts out at the rows that are not -1, item by item, ``(N, d)``."""
    kept: list[Tensor] = []
    items, places = (rows >= 0).nonzero(as_tuple=True)
    at = rows[items, places]

    def keep(_module: Any, _args: Any, output: Any) -> None:
        states = output.last_hidden_state
        kept[:] = [states.detach()[items.to(states.device), at.to(states.device)]]

    hook = mllm.model.base_model.register_forward_hook(keep)
    try:
        yield kept
    finally:
        hook.remove()
