"""A batch on its way through a model, with all that the Att-CoT terms need of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from attcot_analysis.attention.packing import Packed
from attcot_analysis.attention.probe import Probe
from attcot_analysis.attention.sinks import SinkFinder
from attcot_analysis.train.data import Example


@dataclass(eq=False)
class Batch:
    """One batch on its way through the model.

    Attributes:
        inputs: What the trainer gives to the model, as it came.
        examples: The items.
        steps: Per item the k whose forced answers are read.
        extra: What the backbone gets beside, or instead of, the trainer's inputs.
        packed: The branches, if there are any.
        probe: Collects masses, if they are wanted.
        groups: ``(B, R)`` the key group that each probed row belongs to.
        rows: ``(B, R)`` the probed rows, -1 for none.
        sinks: Finds the tokens that do not count as image, if any do not.
        hidden: The backbone's last hidden states at the rows of ``packed.joint``, ``(N, d)``,
            once it has run.
    """

    inputs: dict[str, Any]
    examples: Sequence[Example]
    steps: list[tuple[int, ...]]
    extra: dict[str, Any] = field(default_factory=dict)
    packed: Packed | None = None
    probe: Probe | None = None
    groups: Tensor | None = None
    rows: Tensor | None = None
    sinks: SinkFinder | None = None
    hidden: Tensor | None = None
