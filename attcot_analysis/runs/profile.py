"""Where the time of a run goes: seconds and tokens per kind of forward pass."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch

from attcot_analysis.models import Mllm

Kind = Literal["pictures", "text", "behind", "writing"]
"""Passes that see a picture; those of text alone; those behind tokens whose keys and values are
kept; and those of one token per sequence behind them."""

BESIDE = "beside the model"
"""All that is no forward pass: processors, tokens, tables."""


@dataclass
class Profile:
    """Seconds, passes and tokens of the forward passes of a model.

    Attributes:
        kinds: By `Kind`: ``seconds``, ``passes``, ``tokens`` (padding included).
        whole: Seconds of everything.
        resumed: Whether some of the run was there before.
    """

    kinds: dict[str, dict[str, float]] = field(
        default_factory=lambda: {
            kind: {"seconds": 0.0, "passes": 0, "tokens": 0} for kind in get_args(Kind)
        }
    )
    whole: float = 0.0
    resumed: bool = False

    def record(self, n_items: int) -> dict[str, Any]:
        """As JSON values: the kinds, `BESIDE`, seconds in all and per item, and the `sentence`."""
        passes = sum(one["seconds"] for one in self.kinds.values())
        return {
            **self.kinds,
            BESIDE: {"seconds": max(0.0, self.whole - passes)},
            "seconds": self.whole,
            "items": n_items,
            "seconds_per_item": self.whole / max(n_items, 1),
            "sentence": self.sentence(n_items),
        }

    def sentence(self, n_items: int) -> str:
        """Such as "This run: 0.9 s an item; 61 % writing, 22 % pictures."."""
        shares = {kind: one["seconds"] / max(self.whole, 1e-9) for kind, one in self.kinds.items()}
        shares[BESIDE] = max(0.0, 1 - sum(shares.values()))
        ordered = sorted(shares, key=lambda kind: -shares[kind])
        said = ", ".join(f"{shares[kind]:.0%} {kind}".replace("%", " %") for kind in ordered)
        what = "What this run was resumed for" if self.resumed else "This run"
        return f"{what}: {self.whole / max(n_items, 1):.2g} s an item; {said}."


@contextlib.contextmanager
def profiled(mllm: Mllm, resumed: bool = False) -> Iterator[Profile]:
    """Time every forward pass of a model inside; a GPU is waited for before and after each.

    What a model does in passes within passes counts once.
    """
    profile = Profile(resumed=resumed)
    begun: list[tuple[Kind, float]] = []
    cuda = mllm.device.type == "cuda"

    def now() -> float:
        if cuda:
            torch.cuda.synchronize(mllm.device)
        return time.perf_counter()

    def before(module: Any, arguments: Any, inputs: dict[str, Any]) -> None:
        begun.append((_kind(inputs), now()))

    def after(module: Any, arguments: Any, inputs: dict[str, Any], output: Any) -> None:
        kind, start = begun.pop()
        if not begun and "input_ids" in inputs:
            found = profile.kinds[kind]
            found["seconds"] += now() - start
            found["passes"] += 1
            found["tokens"] += inputs["input_ids"].numel()

    with contextlib.ExitStack() as stack:
        start = time.perf_counter()
        hooks = (
            mllm.model.register_forward_pre_hook(before, with_kwargs=True),
            # Also where the pass fails, so that the next one is not taken for a part of it.
            mllm.model.register_forward_hook(after, with_kwargs=True, always_call=True),
        )
        for hook in hooks:
            stack.callback(hook.remove)
        yield profile
        profile.whole = time.perf_counter() - start


def _kind(inputs: dict[str, Any]) -> Kind:
    cache = inputs.get("past_key_values")
    if cache is not None and cache.get_seq_length() > 0:
        return "writing" if inputs["input_ids"].shape[1] == 1 else "behind"
    # `transformers`' own generate() has run the tower before; its seconds then lie beside.
    if inputs.get("mm_encoder_outputs"):
        return "pictures"
    seen = any(torch.is_tensor(one) and one.is_floating_point() for one in inputs.values())
    return "pictures" if seen else "text"
