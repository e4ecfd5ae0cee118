"""`check_model`: does everything that we measure with hold on this checkpoint?"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from attcot_analysis.errors import AttCoTError, ModelError, lacks_memory
from attcot_analysis.measures.checks_attention import (
    batched_is_single,
    candidates_are_their_texts,
    generation_is_teacher_forcing,
    knockout_moves_logits,
    leaves_no_trace,
    model_state,
    probe_is_eager,
    rows_sum_to_one,
)
from attcot_analysis.measures.checks_inputs import (
    image_tokens_match_grids,
    painted_boxes_move_their_tokens,
    prompt_renders,
    spans_are_found,
)
from attcot_analysis.models import Mllm, load_mllm

__all__ = ["CHECKS", "Check", "ModelCheck", "check_model"]

CHECKS: dict[str, Callable[[Mllm], str]] = {
    "prompt": prompt_renders,
    "image tokens = grid": image_tokens_match_grids,
    "painted box moves its token": painted_boxes_move_their_tokens,
    "steps and answer found": spans_are_found,
    "rows sum to 1": rows_sum_to_one,
    "probe = eager": probe_is_eager,
    "batched = single": batched_is_single,
    "candidate = its whole text": candidates_are_their_texts,
    "knockout moves logits": knockout_moves_logits,
    "generation = teacher forcing": generation_is_teacher_forcing,
}
"""What is checked of a loaded model, in order; each returns its figures or raises.

Last of all comes whether the other checks left the model as it was.
"""


@dataclass(frozen=True)
class Check:
    """One verdict.

    Attributes:
        name: What should hold.
        ok: Whether it does.
        detail: The figures, or what is wrong.
    """

    name: str
    ok: bool
    detail: str

    def __str__(self) -> str:
        """One line for people."""
        return f"{'ok' if self.ok else 'FAILED':<7} {self.name:<29} {self.detail}"


@dataclass(frozen=True)
class ModelCheck:
    """All verdicts on a model.

    Attributes:
        model: Its path or hub id.
        checks: In the order in which they ran.
    """

    model: str
    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        """Whether every check does."""
        return all(check.ok for check in self.checks)

    @property
    def verdict(self) -> str:
        """The sum of it, in one sentence."""
        failed = [check.name for check in self.checks if not check.ok]
        if not failed:
            return f"{self.model}: all {len(self.checks)} checks hold."
        return (
            f"{self.model}: {len(failed)} of {len(self.checks)} checks failed "
            f"({', '.join(failed)}); do not trust measurements on it."
        )

    def __str__(self) -> str:
        """One line per check, then the verdict."""
        return "\n".join([*map(str, self.checks), self.verdict])


@torch.no_grad()
def check_model(
    model: Mllm | str | Path,
    *,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    report: Callable[[Check], object] | None = None,
) -> ModelCheck:
    """Check that a model's inputs, grids and attention are what measurements take them for.

    Args:
        model: A loaded model, a folder, or a hub id.
        dtype: To load in. In fp32 the comparisons are sharp; half precision halves the memory
            and is compared with wider tolerances.
        device: As for `load_mllm`.
        revision: As for `load_mllm`.
        trust_remote_code: As for `load_mllm`.
        report: Called with each verdict as soon as it is there.

    Returns:
        One verdict on loading and one per check. A check that raises has failed,
        with what it said; if the model does not load, that is the only verdict.
    """
    checks: list[Check] = []

    def note(check: Check) -> Check:
        checks.append(check)
        if report is not None:
            report(check)
        return check

    if isinstance(model, Mllm):
        mllm = model
    else:
        try:
            mllm = load_mllm(
                model,
                dtype=dtype,
                device=device,
                revision=revision,
                trust_remote_code=trust_remote_code,
            )
        except ModelError as error:
            note(Check("loads", False, str(error)))
            return ModelCheck(str(model), tuple(checks))
    note(Check("loads", True, _describe(mllm)))
    state = model_state(mllm.model)
    for name, check in CHECKS.items():
        note(_checked(name, check, mllm))
    note(_checked("nothing left on the model", partial(leaves_no_trace, before=state), mllm))
    return ModelCheck(mllm.name, tuple(checks))


def _checked(name: str, check: Callable[[Mllm], str], mllm: Mllm) -> Check:
    try:
        return Check(name, True, check(mllm))
    except AttCoTError as error:
        if lacks_memory(error):
            raise
        return Check(name, False, str(error))
    # Whatever a strange checkpoint makes a library raise is a verdict on it, too.
    except Exception as error:
        if lacks_memory(error):
            raise
        lines: list[Any] = str(error).strip().splitlines() or ["no message"]
        return Check(name, False, f"{type(error).__name__}: {lines[0]}")


def _describe(mllm: Mllm) -> str:
    return (
        f"{type(mllm.model).__name__}, family {mllm.family.name}, {mllm.n_layers} layers x "
        f"{mllm.n_heads} heads, {str(mllm.dtype).removeprefix('torch.')} on {mllm.device}"
    )
