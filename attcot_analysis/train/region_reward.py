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
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from attcot_analysis.attention.hook import attached
from attcot_analysis.attention.probe import LayerCols, Probe, run_probe
from attcot_analysis.attention.sinks import SinkFinder, SinkRule
from attcot_analysis.errors import TrainingError, check_numbers
from attcot_analysis.models import Encoded, Mllm, Span, collate, evaluating, positions
from attcot_analysis.models.inputs import last_row
from attcot_analysis.problems import Box
from attcot_analysis.train.data import evidence_weights
from attcot_analysis.train.objective import AttCoTConfig, readable_layers
from attcot_analysis.train.settings import SomeShare, Weight, check_settings
from attcot_analysis.train.terms import head_logits


@dataclass(frozen=True)
class RegionRewardConfig:
    """What the region reward looks at; the defaults are those of SAYO's published code.

    Attributes:
        layers: ``"last"``, the last layer with full attention; ``"middle"``, the middle third
            (ours: where other work locates visual reading); or the layers themselves, from 0.
        entropy_top: The share of generated tokens that counts, those with the highest entropy at
            the sampling temperature; 1 for all.
        region: ``"problem"``: every token is held against all boxes of the problem (SAYO has one
            region per question). ``"step"``: the tokens of the k-th generated step are held
            against the boxes of the problem's k-th step, and no others count (ours).
        sink_free: Leave attention sinks out, in boxes and image, as `find_sinks` finds them among
            the prompt's tokens (ours: the last layer is full of them).
        mass_weight: How much of the mean visual mass, in [0, 1], is added to the reward (ours:
            the ratio alone is indifferent to a model that stops looking at the image at all).
        only_correct: Completions with a wrong answer get no reward (EASE, arXiv 2605.30912,
            supervises attention on successful rollouts only).

    Raises:
        TrainingError: If a value is out of range.
    """

    layers: tuple[int, ...] | Literal["last", "middle"] = "last"
    entropy_top: SomeShare = 0.3
    region: Literal["problem", "step"] = "problem"
    sink_free: bool = False
    mass_weight: Weight = 0.0
    only_correct: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        named = isinstance(self.layers, tuple) and bool(self.layers)
        if not named and self.layers not in ("last", "middle"):
            raise TrainingError(
                f"layers is {self.layers!r}; choose last, middle, or name at least one layer."
            )
        check_settings(self)

    def chosen_layers(self, mllm: Mllm) -> tuple[int, ...]:
        """The layers to read in a model.

        Raises:
            TrainingError: If one of them does not exist or has no full attention.
        """
        if self.layers == "middle":
            return readable_layers(mllm, AttCoTConfig(lambda_vis=1.0))
        readable = readable_layers(mllm, AttCoTConfig(lambda_vis=1.0, vis_layers="all"))
        if self.layers == "last":
            return readable[-1:]
        if not set(self.layers) <= set(readable):
            raise TrainingError(
                f"The region reward cannot read layers {sorted(set(self.layers) - set(readable))} "
                f"of {mllm.name}; choose from {list(readable)}, which have full attention."
            )
        return tuple(sorted({int(layer) for layer in self.layers}))


@dataclass(frozen=True, eq=False)
class SharedPrompts:
    """The distinct prompts of some items, left-padded to P.

    Attributes:
        inputs: Model inputs of all their tokens but the last, which the responses start with.
        last: Positions of the last tokens, ``(D, 1)`` or ``(3, D, 1)``.
        which: The prompt of each item, ``(B,)``.
    """

    inputs: dict[str, Tensor]
    last: Tensor
    which: Tensor

    def columns(self, items: Sequence[Encoded], values: Sequence[Tensor]) -> Tensor:
        """Values of each item's image tokens, ``(N, C)``, at their places: ``(B, P - 1, C)``."""
        length = self.inputs["input_ids"].shape[1]
        width = max(value.shape[1] for value in values)
        columns = torch.zeros(len(items), length, width)
        for at, (item, value) in enumerate(zip(items, values, strict=True)):
            places = torch.as_tensor(item.layout.image) + length + 1 - item.prompt_length
            columns[at, places, : value.shape[1]] = value
        return columns.to(self.inputs["input_ids"].device)


def continued(prompt: Encoded, response: Sequence[int]) -> Encoded:
    """A prompt with a response, which is not looked into: its steps and answer are not found."""
    ids = torch.tensor(list(response), dtype=torch.long)
    length = len(prompt.input_ids)
    layout = replace(
        prompt.layout,
        n_tokens=length + len(ids),
        response=Span(length, length + len(ids)),
    )
    types = prompt.token_types
    return replace(
        prompt,
        input_ids=torch.cat([prompt.input_ids, ids]),
        token_types=None if types is None else torch.cat([types, torch.zeros_like(ids)]),
        layout=layout,
    )


def shared_prompts(mllm: Mllm, items: Sequence[Encoded]) -> SharedPrompts:
    """Find the distinct prompts of items: the same tokens and the very same image tensors."""
    places: dict[Any, int] = {}
    prompts: list[Encoded] = []
    which = []
    for item in items:
        ids = item.input_ids[: item.prompt_length]
        key = (tuple(ids.tolist()), *(id(tensor) for tensor in item.vision.values()))
        if key not in places:
            places[key] = len(prompts)
            types = None if item.token_types is None else item.token_types[: item.prompt_length]
            prompts.append(replace(item, input_ids=ids, token_types=types))
        which.append(places[key])
    whole = collate(mllm, prompts, padding_side="left")
    by_token = {"input_ids", "attention_mask", mllm.family.token_types}
    return SharedPrompts(
        inputs={key: v[:, :-1] if key in by_token else v for key, v in whole.items()},
        last=positions(mllm, whole)[..., -1:],
        which=torch.tensor(which, device=mllm.device),
    )


@torch.no_grad()
def run_prompts(
    mllm: Mllm, shared: SharedPrompts, items: Sequence[Encoded], lengths: Sequence[int]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Run the prompts, and make the inputs of the pass that continues them.

    Args:
        mllm: The model.
        shared: The prompts of the items.
        items: Prompts with responses.
        lengths: How many rows of each are wanted. Row 0 is the one that predicts the first
            response token; it is in the pass even where none is wanted.

    Returns:
        Model inputs, right-padded, whose place r is row r of the response; and further arguments
        of the forward call.
    """
    model = mllm.model
    with evaluating(model), attached(model):
        last = last_row(shared.inputs)
        cache = model(**shared.inputs, use_cache=True, logits_to_keep=last).past_key_values
    cache.reorder_cache(shared.which)
    tails = [
        item.input_ids[item.prompt_length - 1 :][: max(1, length)]
        for item, length in zip(items, lengths, strict=True)
    ]
    ids = pad_sequence(tails, batch_first=True, padding_value=mllm.tokenizer.pad_token_id)
    places = torch.arange(ids.shape[1])
    mask = places < torch.tensor([[len(tail)] for tail in tails])
    before = shared.inputs["attention_mask"][shared.which]
    where = shared.last[..., shared.which, :] + places.to(shared.last.device)
    inputs = {
        "input_ids": ids.to(mllm.device),
        "attention_mask": torch.cat([before, mask.to(before)], dim=1),
    }
    return inputs, {"past_key_values": cache, "use_cache": True, "position_ids": where}


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
    at_once = max(1, _LOGITS_AT_ONCE // len(mllm.model.get_output_embeddings().weight))
    entropies = [hidden.new_zeros(0, dtype=torch.float32)]
    with torch.autocast(hidden.device.type, enabled=False):
        for part in hidden.split(at_once):
            log_probs = (head_logits(mllm, part) / temperature).log_softmax(-1)
            entropies.append(-(log_probs.exp() * log_probs).sum(-1))
    return torch.cat(entropies)


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


Boxes = Sequence[Sequence[Box]]
"""Per rationale step its evidence boxes, in pixels of the original image."""

Missing = Literal["no_image", "no_box", "unseen", "empty", "no_step", "sinks"]
"""Why there is no reward: the prompt has no image; the problem has no box; no image token lies in
one (the processor cropped it away); nothing was generated; no generated step has boxes of its own;
all image tokens in the boxes are attention sinks."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Which rows of an item could count, and what each is held against.

    Attributes:
        rows: Positions, long ``(R,)``.
        groups: Per row the column of its boxes, from 1, long ``(R,)``.
        cols: ``(N, C)`` per image token 1 in column 0, and how far the boxes of each other column
            cover it.
        missing: Why there are no rows.
    """

    rows: Tensor
    groups: Tensor
    cols: Tensor
    missing: Missing | None = None


def plan_rows(mllm: Mllm, item: Encoded, boxes: Boxes, config: RegionRewardConfig) -> Plan:
    """The rows of one item that could count.

    Raises:
        TrainingError: If there are boxes, but several images.
    """
    layout, start = item.layout, item.prompt_length
    none = torch.zeros(0, dtype=torch.long)
    whole = torch.ones(len(layout.image), 1)

    def without(reason: Missing) -> Plan:
        return Plan(none, none, whole, reason)

    if not layout.grids:
        return without("no_image")
    every = [box for step in boxes for box in step]
    if not every:
        return without("no_box")
    regions = [every] if config.region == "problem" else boxes
    covered = [
        evidence_weights(item, [(x0, y0, x1, y1) for x0, y0, x1, y1 in one]) for one in regions
    ]
    if not any(bool(weights.any()) for weights in covered):
        return without("unseen")
    stop = set(mllm.stop_ids)
    ids = item.response_ids
    length = next((at for at, token in enumerate(ids) if token in stop), len(ids))
    if not length:
        return without("empty")
    cols = torch.cat([whole, torch.stack(covered, dim=1)], dim=1)
    if config.region == "problem":
        rows = torch.arange(start - 1, start - 1 + length)
        return Plan(rows, torch.ones_like(rows), cols)
    spans = [
        (torch.as_tensor(layout.rows(span), dtype=torch.long), column)
        for column, (span, weights) in enumerate(zip(layout.steps, covered, strict=False), start=1)
        if span.size and bool(weights.any())
    ]
    if not spans:
        return without("no_step")
    groups = torch.cat([torch.full_like(rows, column) for rows, column in spans])
    return Plan(torch.cat([rows for rows, _ in spans]), groups, cols)


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

    Items that share prompt and image tensors, as those encoded with a `PromptCache` do, share the
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
    check_numbers(batch_size=batch_size)
    if not 0 < temperature < float("inf"):
        raise TrainingError(f"temperature is {temperature}; give that of the sampling, above 0.")
    layers = config.chosen_layers(mllm)
    plans = [plan_rows(mllm, *one, config) for one in zip(items, boxes, strict=True)]
    attention: list[RegionAttention] = []
    for start in range(0, len(items), batch_size):
        part = slice(start, start + batch_size)
        attention += _read(mllm, items[part], plans[part], layers, config, temperature)
    return attention


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
    attention, first = [], 0
    for at, plan in enumerate(plans):
        number = len(plan.rows)
        own = {layer: mass[at, :, :number].double().cpu() for layer, mass in masses.items()}
        tokens = {layer: amounts[layer][at].double().cpu() for layer in layers}
        attention.append(
            reduce_masses(plan, entropies[first : first + number], own, tokens, config)
        )
        first += number
    return attention


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
        values = (boxes / amounts[layer][groups[seen]], image / amounts[layer][0], image, boxes)
        for kept, value in zip(sums, values, strict=True):
            kept.append(value.mean())
    if not sums[0]:
        return RegionAttention(**base, missing="sinks")
    means = [float(torch.stack(values).mean()) for values in sums]
    box_density, image_density, visual_mass, box_mass = means
    return RegionAttention(
        **base,
        box_density=box_density,
        image_density=image_density,
        visual_mass=visual_mass,
        box_mass=box_mass,
    )


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
