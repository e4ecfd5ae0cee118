"""Which kernels of scaled dot-product attention really ran."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

_FUSED = re.compile(r"^aten::_scaled_dot_product_(\w+?)_attention(_for_cpu)?$")
# The fallback is a composition of others; this one of them is its own.
_MATH = "aten::_safe_softmax"


def sdpa_kernels(call: Callable[[], object]) -> str:
    """Names and numbers of the attention kernels of a call, such as ``"flash x 24"``.

    The dispatcher chooses among them by shapes, masks and hardware; ``math`` is the fallback that
    holds all weights at once.
    """
    with _Listener() as listener:
        call()
    return ", ".join(f"{name} x {n}" for name, n in sorted(listener.found.items())) or "none"


class _Listener(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = func.name().split(".")[0]
        fused = _FUSED.match(name)
        if fused or name == _MATH:
            self.found[fused[1] if fused else "math"] += 1
        return func(*args, **(kwargs or {}))
