"""Tuned lens: an affine map per layer that turns its states into what the last layer says."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from attcot_analysis.attention.candidates import candidate_tokens
from attcot_analysis.attention.packing import pack
from attcot_analysis.attention.probe import chosen_layers
from attcot_analysis.errors import MeasureError, check_numbers, not_finite
from attcot_analysis.files import check_free, path_of, write_whole
from attcot_analysis.measures._items import Empty, Response, batches, paired
from attcot_analysis.models import Mllm, evaluating
from attcot_analysis.models.load import TextStack, hidden_states, text_stack
from attcot_analysis.problems import Problem

_ROWS = 64
"""Rows of one step of the optimiser, where the vocabulary allows it."""


@dataclass(frozen=True)
class Translators:
    """Affine maps from states behind layers to states in front of the final norm.

    Attributes:
        maps: Layer → (A − I ``(d, d)``, b ``(d,)``), fp32.
        table: ``layer``; ``plain``, ``tuned``: mean KL(model ‖ lens) in nats without and with the
            map, over ``n_rows`` rows of the items that were held out.
    """

    maps: Mapping[int, tuple[Tensor, Tensor]]
    table: pd.DataFrame

    def __call__(self, layer: int, hidden: Tensor) -> Tensor:
        """States ``(..., d)`` behind a layer as the last layer would put them.

        Raises:
            MeasureError: If there is no map for the layer, or it is of another width.
        """
        if layer not in self.maps:
            raise MeasureError(
                f"There is no translator for layer {layer}, only for {sorted(self.maps)}; fit it, "
                "or name these as layers."
            )
        moved, shift = (one.to(hidden.device) for one in self.maps[layer])
        if moved.shape[0] != hidden.shape[-1]:
            raise MeasureError(
                f"The translators are of states of {moved.shape[0]} numbers, and the model's have "
                f"{hidden.shape[-1]}; fit them on this model."
            )
        return _translated(hidden, moved, shift)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write them into a safetensors file.

        Raises:
            RunError: If the file is there already, or cannot be written.
        """
        path = path_of(path)
        check_free(path, overwrite)
        tensors = {
            f"{layer}.{name}": one.contiguous()
            for layer, pair in self.maps.items()
            for name, one in zip(("A_minus_I", "b"), pair, strict=True)
        }
        note = {"table": self.table.to_json(orient="records")}
        write_whole(path, lambda part: save_file(tensors, part, note))
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Translators":
        """Read what `save` has written.

        Raises:
            MeasureError: If the file is none of these.
        """
        path = path_of(path, MeasureError)
        try:
            with safe_open(path, "pt") as file:
                read = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                table = pd.DataFrame(json.loads(file.metadata()["table"]))
            layers = sorted({int(name.split(".")[0]) for name in read})
            maps = {at: (read[f"{at}.A_minus_I"], read[f"{at}.b"]) for at in layers}
            if any(moved.shape != 2 * shift.shape for moved, shift in maps.values()):
                raise ValueError("a map and its shift do not fit together")
        except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
            raise MeasureError(
                f"{path} holds no translators ({type(error).__name__}); give a file that "
                "Translators.save has written."
            ) from error
        return cls(maps, table)


def fit_translators(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Response],
    *,
    layers: Collection[int] | None = None,
    steps: int = 250,
    learning_rate: float = 1e-3,
    seed: int = 0,
    empty: Empty = "error",
    progress: bool = False,
) -> Translators:
    """Fit a tuned lens on a model's own responses and forced answers.

    For every layer the affine map, begun at the identity, after which the model's final norm and
    output head say what they say of the last layer: the mean of KL(model ‖ lens) over the rows of
    responses and of answers forced after every step, by Adam with a rate that falls to 0. The model
    stays as it is. Every fifth item is held out, to see whether the maps hold for others.

    Args:
        mllm: The model.
        problems: The items, at least two; others than those that are then measured.
        responses: Per item the response, as token ids or as text.
        layers: Which layers, from 0; default all but the last.
        steps: Of the optimiser, per layer, of up to 64 rows each.
        learning_rate: Its first.
        seed: Draws the rows.
        empty: What to do with items that cannot be measured; see `commitment`.
        progress: Show a progress bar.

    Returns:
        What `lens_commitment` takes as ``translators``. It costs one forward pass per item, whose
        states are kept (rows × layers × d numbers of 4 bytes), and ``steps`` readings of the head
        and their gradients per layer.

    Raises:
        MeasureError: As `lens_commitment`; or if there are fewer than two items.

    Source: tuned lens, Belrose et al., arXiv 2303.08112, section 3; there on text at large.
    """
    check_numbers(steps=steps, seed=seed, learning_rate=learning_rate)
    items = paired(mllm, problems, responses, forced=True, empty=empty, several=True)
    if len(items.places) < 2:
        raise MeasureError("One item cannot be both fitted and held out; give at least two.")
    stack, last = text_stack(mllm), mllm.n_layers - 1
    chosen = chosen_layers(mllm, range(last) if layers is None else layers)
    states: dict[int, list[Tensor]] = {layer: [] for layer in (*chosen, last)}
    for (at,) in batches(items.places, 1, "translators", progress):
        encoded = items.encode(at)
        tokens = candidate_tokens(mllm, problems[at].candidates)
        packed = pack(mllm, [encoded], [tokens], names=[problems[at].id])
        written = torch.arange(encoded.prompt_length - 1, packed.base_length)
        rows = torch.cat([written, packed.keep.cpu()]).unique()
        with (
            torch.no_grad(),
            evaluating(mllm.model),
            hidden_states(stack, states.keys(), rows) as found,
        ):
            own = mllm.model(**packed.inputs, logits_to_keep=packed.keep[-1:], use_cache=False)
            stack.require_own(found[last][:, -1], own.logits[:, -1])
        if not all(bool(one.isfinite().all()) for one in found.values()):
            raise not_finite(f"Item {problems[at].id}: the model's hidden states are not finite")
        for layer, kept in states.items():
            kept.append(found[layer][0])
    held = {layer: torch.cat(kept[::5]) for layer, kept in states.items()}
    fitted = {
        layer: torch.cat([one for at, one in enumerate(kept) if at % 5])
        for layer, kept in states.items()
    }
    maps, told = {}, []
    for layer in chosen:
        pair = _fitted(stack, fitted[layer], fitted[last], steps, learning_rate, seed)
        maps[layer] = (pair[0].cpu(), pair[1].cpu())
        with torch.no_grad():
            kls = [_kl(stack, held[layer], held[last], one) for one in (None, pair)]
        told.append((layer, *(float(kl.mean()) for kl in kls), len(held[last])))
    return Translators(maps, pd.DataFrame(told, columns=["layer", "plain", "tuned", "n_rows"]))


def _translated(hidden: Tensor, moved: Tensor, shift: Tensor) -> Tensor:
    wide = hidden.to(moved.dtype)
    return (wide + wide @ moved.T + shift).to(hidden.dtype)


@torch.enable_grad()
def _fitted(
    stack: TextStack, hidden: Tensor, final: Tensor, steps: int, rate: float, seed: int
) -> tuple[Tensor, Tensor]:
    width = hidden.shape[-1]
    pair = (hidden.new_zeros(width, width).float(), hidden.new_zeros(width).float())
    for one in pair:
        one.requires_grad_()
    adam = torch.optim.Adam(pair, lr=rate)
    falling = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, total_iters=steps)
    draw, n_rows = torch.Generator().manual_seed(seed), len(hidden)
    size = min(_ROWS, n_rows, stack.rows_at_once())
    for _ in range(steps):
        rows = torch.randperm(n_rows, generator=draw)[:size].to(hidden.device)
        loss = _kl(stack, hidden[rows], final[rows], pair).mean()
        # Of the maps alone: the model's weights keep the gradients that they have.
        for one, gradient in zip(pair, torch.autograd.grad(loss, pair), strict=True):
            one.grad = gradient
        adam.step()
        falling.step()
    return pair[0].detach(), pair[1].detach()


def _kl(
    stack: TextStack, hidden: Tensor, final: Tensor, pair: tuple[Tensor, Tensor] | None
) -> Tensor:
    """KL(model ‖ lens) of every row, in nats; few rows at once."""
    found = []
    size = stack.rows_at_once()
    for own, end in zip(hidden.split(size), final.split(size), strict=True):
        read = own if pair is None else _translated(own, *pair)
        lens = stack.logits(read).log_softmax(-1)
        with torch.no_grad():
            model = stack.logits(end).log_softmax(-1)
        found.append((model.exp() * (model - lens)).sum(-1))
    return torch.cat(found)
