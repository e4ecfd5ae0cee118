"""Taps: what layers pass on (residual stream, attention by head, MLP), to be read or replaced.

A tap is a function of the place, the layer and what is passed on there; what it returns is passed
on instead. `resumed` spares what a tap from some layer on leaves as it is::

    with attached(model), resumed(model, stack, first, states), tapped(stack, tap):
        model(**batch)
"""

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from attcot_analysis.attention.hook import Attend, AttentionCall, intervening
from attcot_analysis.errors import MeasureError
from attcot_analysis.models.load import TextStack

__all__ = ["Place", "Tap", "resumed", "tapped"]

Place = Literal["residual", "attention", "mlp"]
"""Where: behind the layer, inside its attention before the heads are joined, or behind its MLP."""

Tap = Callable[[Place, int, Tensor], Tensor]
"""Place, layer and what is passed on, ``(B, T, d)`` or of attention ``(B, T, H, Dv)``."""


class _Heads:
    """The tap in the attention of every layer."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap

    def revise(self, call: AttentionCall, output: Tensor, attend: Attend) -> Tensor:
        return self.tap("attention", call.module.layer_idx, output)


@contextlib.contextmanager
def tapped(stack: TextStack, tap: Tap, places: Collection[Place]) -> Iterator[None]:
    """Set a tap at some places of every layer, in every forward pass inside.

    Args:
        stack: The model's text stack; its attention must be ours (`attached`).
        tap: What to do.
        places: Where.

    Raises:
        MeasureError: If layers have no ``mlp``, or do not attend.
    """
    with contextlib.ExitStack() as hooks:
        for number, layer in enumerate(stack.layers):
            modules: dict[Place, Any] = {"residual": layer, "mlp": getattr(layer, "mlp", None)}
            for place in sorted(set(places) & set(modules)):
                module = modules[place]
                if module is None:
                    raise MeasureError(
                        f"Layer {number} has no part named mlp; leave the MLP out of the sites."
                    )
                hook = module.register_forward_hook(_hook(tap, place, number))
                hooks.callback(hook.remove)
        if "attention" in places:
            hooks.enter_context(intervening(_Heads(tap)))
        yield


def _hook(tap: Tap, place: Place, layer: int) -> Callable[[Any, Any, Any], Any]:
    def passed_on(_module: Any, _inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (tap(place, layer, output[0]), *output[1:])
        return tap(place, layer, output)

    return passed_on


@contextlib.contextmanager
def resumed(
    model: torch.nn.Module, stack: TextStack, first: int, state: Tensor | None, kept: dict[str, Any]
) -> Iterator[None]:
    """Spare a model the layers before ``first``, and its vision tower, in each pass inside.

    What the model does between its layers (as adding features of the picture to them) it does.

    Args:
        model: The model.
        stack: Its text stack.
        first: The layer to begin with.
        state: What the layer before it puts out, ``(B, T, d)``, from another pass of the same
            batch; ``None`` where ``first`` is 0.
        kept: Features of the pictures are kept here between passes; empty for a new batch.
    """
    config: Any = model.config
    if getattr(config.get_text_config(), "num_kv_shared_layers", 0):
        first = 0  # Later layers read the keys of earlier ones, so that all have to run.
    spared = list(stack.layers[:first])
    towers: list[Any] = [one for one in model.modules() if hasattr(type(one), "get_image_features")]

    def remembering(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def features(*inputs: Any, **options: Any) -> Any:
            if name not in kept:
                kept[name] = real(*inputs, **options)
            return kept[name]

        return features

    try:
        for number, layer in enumerate(spared):
            last = number == first - 1
            layer.forward = lambda hidden, *_, last=last, **__: state if last else hidden
        for number, tower in enumerate(towers):
            tower.get_image_features = remembering(str(number), tower.get_image_features)
        yield
    finally:
        for layer in spared:
            del layer.forward
        for tower in towers:
            tower.__dict__.pop("get_image_features", None)
