"""What benches share: rows with bars, a clock, peak memory, kernels, and models of real shapes."""

import contextlib
import gc
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from attcot_analysis.errors import MeasureError, RunError, passing
from attcot_analysis.models import Mllm, evaluating, wrap_mllm
from attcot_analysis.shipped import TESTBED_MODEL, shipped


@dataclass(frozen=True)
class Row:
    """One number of a bench.

    Attributes:
        name: What was measured.
        value: The number, or for circumstances (versions, kernels) a text.
        unit: Of the value; ``"x"`` for ratios.
        bar: What it must reach, such as ``"<= 1.12"``; ``None`` if it only informs.
        holds: Whether it does; ``None`` without a bar.

    Raises:
        MeasureError: If only one of bar and holds is given.
    """

    name: str
    value: float | str
    unit: str
    bar: str | None = None
    holds: bool | None = None

    def __post_init__(self) -> None:
        """Check that bar and verdict come together."""
        if (self.bar is None) != (self.holds is None):
            raise MeasureError(
                f"Row {self.name!r} has bar {self.bar!r} and verdict {self.holds!r}; "
                "give both or neither."
            )


def judged(
    name: str,
    value: float,
    unit: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Row:
    """A row with a bar; a value that is no number does not hold, and without bounds it informs.

    Args:
        name: What was measured.
        value: The number.
        unit: Of the value and of the bar.
        at_least: Lower bound.
        at_most: Upper bound.
    """
    if at_least is None and at_most is None:
        return Row(name, float(value), unit)
    low = -math.inf if at_least is None else at_least
    high = math.inf if at_most is None else at_most
    if at_least is None:
        bar = f"<= {high:g}"
    elif at_most is None:
        bar = f">= {low:g}"
    else:
        bar = f"{low:g} to {high:g}"
    return Row(name, float(value), unit, bar, bool(low <= value <= high))


class Scale(SimpleNamespace):
    """How large a bench is: its sizes by name, which the bench explains where it sets them."""


def circumstances(device: str, quick: bool) -> list[Row]:
    """Under what a bench ran, as rows."""
    cuda = device.startswith("cuda")
    return [
        Row("device", torch.cuda.get_device_name(device) if cuda else device, "name"),
        Row("processor", platform.machine(), "name"),
        Row("CPU cores", float(os.cpu_count() or 1), "count"),
        Row("torch threads", float(torch.get_num_threads()), "count"),
        Row("shapes", "quick, no bar judged" if quick else "full", "name"),
        *(Row(name, version(name), "version") for name in ("torch", "transformers")),
        Row("python", platform.python_version(), "version"),
    ]


def format_rows(rows: Sequence[Row]) -> str:
    """Rows as a table for people."""
    cells = [("", "value", "unit", "bar", "holds")]
    for row in rows:
        value = row.value if isinstance(row.value, str) else f"{row.value:.4g}"
        verdict = "" if row.holds is None else "yes" if row.holds else "NO"
        cells.append((row.name, value, row.unit, row.bar or "", verdict))
    widths = [max(len(line[at]) for line in cells) for at in range(len(cells[0]))]
    lines = []
    for name, value, *rest in cells:
        end = [cell.ljust(width) for cell, width in zip(rest, widths[2:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), value.rjust(widths[1]), *end]).rstrip())
    return "\n".join(lines)


def check_file(path: Path) -> None:
    """Make the folder of a file to be written, before hours are spent on what goes into it.

    Raises:
        RunError: If it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"The folder of {path} cannot be made: {error.strerror}.") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise RunError(f"{path} cannot be written; name a file in a folder of yours.")


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Write rows as a JSON list of ``{name, value, unit, bar, holds}``."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")


def read_rows(path: Path) -> list[Row]:
    """Read what `write_rows` wrote.

    Raises:
        RunError: If the file is missing or holds something else.
    """
    try:
        return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, TypeError, ValueError) as error:
        raise passing(error, path) or RunError(
            f"{path} holds no bench rows; write it with `python -m benchmarks`."
        ) from error


Seconds = dict[str, npt.NDArray[np.float64]]


def own_clock(device: str) -> Callable[[], float]:
    """What tells the seconds of a bench: on the CPU those of this process, others' left out."""
    return time.process_time if device == "cpu" else time.perf_counter


def interleaved(
    variants: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    device: str = "cpu",
    warm_up: bool = True,
    progress: bool = False,
    name: str = "",
    clock: Callable[[], float] = time.perf_counter,
) -> Seconds:
    """Time variants in turns (A B A B ...), so that a machine that slows down slows all.

    Args:
        variants: What to call, by name.
        repeats: Rounds that count.
        device: Waited for before the clock is read.
        warm_up: Run one round that does not count first.
        progress: Show a progress bar over rounds.
        name: Shown on it.
        clock: What tells the seconds, such as `own_clock`.

    Returns:
        Per variant its seconds, ``(repeats,)``.
    """
    taken: dict[str, list[float]] = {variant: [] for variant in variants}
    for turn in tqdm(range(repeats + warm_up), desc=name, disable=not progress):
        for variant, call in variants.items():
            gc.collect()
            seconds = timed(call, device, clock)
            if turn >= warm_up:
                taken[variant].append(seconds)
    return {variant: np.array(seconds) for variant, seconds in taken.items()}


def timed(
    call: Callable[[], object],
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds of one call; what it returns is dropped after the clock is read."""
    wait(device)
    start = clock()
    result = call()
    wait(device)
    seconds = clock() - start
    del result
    return seconds


def wait(device: str) -> None:
    """Wait until an asynchronous device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def ratio(seconds: Seconds, of: str, over: str) -> float:
    """Median over rounds of how much longer one variant took than the other in that round."""
    return float(np.median(seconds[of] / seconds[over]))


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


_STATUS = Path("/proc/self/status")

_PREFIX = "attcot-peak "


@dataclass(frozen=True)
class Peak:
    """Resident memory of a process, in bytes.

    Attributes:
        before: When the call began: libraries, weights and inputs.
        peak: The most during the call.
    """

    before: int
    peak: int

    @property
    def added(self) -> int:
        """What the call itself needed at its peak."""
        return self.peak - self.before


def peak_memory(module: str, function: str, options: Mapping[str, Any]) -> Peak:
    """Peak memory of a call in a fresh process with as many torch threads as this one.

    Args:
        module: To import there.
        function: Of that module; called with the options, it prepares and returns what to call.
        options: Plain values that JSON can carry.

    Raises:
        MeasureError: If the process fails, for example for want of memory.
    """
    order = {
        "module": module,
        "function": function,
        "options": dict(options),
        "threads": torch.get_num_threads(),
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench", json.dumps(order)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TQDM_DISABLE": "1"},
    )
    answers = [line for line in done.stdout.splitlines() if line.startswith(_PREFIX)]
    if done.returncode or not answers:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MeasureError(
            f"The process that measures {function}({dict(options)}) ended with code "
            f"{done.returncode}: {last}; it may need more memory than there is."
        )
    return Peak(**json.loads(answers[-1].removeprefix(_PREFIX)))


def _measure(call: Callable[[], object]) -> Peak:
    gc.collect()
    if not _STATUS.exists():
        before = _maximum()
        result = call()
        del result
        return Peak(before, _maximum())
    # 5 resets the high-water mark; where that is forbidden, the mark of the preparation remains.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    result = call()
    peak = _status("VmHWM")
    del result
    return Peak(before, peak)


def _status(field: str) -> int:
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


def _maximum() -> int:
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024


def _main() -> None:
    order = json.loads(sys.argv[1])
    torch.set_num_threads(order["threads"])
    prepare = getattr(import_module(order["module"]), order["function"])
    peak = _measure(prepare(**order["options"]))
    print(_PREFIX + json.dumps({"before": peak.before, "peak": peak.peak}))


@dataclass(frozen=True)
class Shape:
    """The text stack of a model.

    Attributes:
        hidden: Width.
        layers: How many.
        heads: Query heads.
        kv_heads: Key and value heads.
        intermediate: Width inside the feed-forward layers.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads

    @property
    def layer_weights(self) -> int:
        """Weights in matrices, all layers together."""
        kv = self.kv_heads * self.head_size
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * kv
        return self.layers * (attention + 3 * self.hidden * self.intermediate)


QWEN_0_5B = Shape(hidden=896, layers=24, heads=14, kv_heads=2, intermediate=4864)

QWEN_7B = Shape(hidden=3584, layers=28, heads=28, kv_heads=4, intermediate=18944)

SMALL = Shape(hidden=64, layers=2, heads=2, kv_heads=1, intermediate=128)


def random_mllm(
    shape: Shape,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
    vision: Mapping[str, int] | None = None,
    words: int | None = None,
) -> Mllm:
    """A Qwen2.5-VL with random weights and a text stack of the given shape.

    Vocabulary (some hundred tokens; ``words`` for more logits), processor and, but for what
    ``vision`` says of it, the small vision tower are the testbed model's: they take next to no time
    or memory and so hide no difference.
    """
    folder = shipped(TESTBED_MODEL)
    config = AutoConfig.from_pretrained(folder)
    text = config.text_config
    text.hidden_size = shape.hidden
    text.num_hidden_layers = text.max_window_layers = shape.layers
    text.layer_types = ["full_attention"] * shape.layers
    text.num_attention_heads = shape.heads
    text.num_key_value_heads = shape.kv_heads
    text.intermediate_size = shape.intermediate
    text.max_position_embeddings = 65536
    text.vocab_size = words or text.vocab_size
    half = shape.head_size // 2
    side = half * 3 // 8
    text.rope_parameters = {
        "rope_type": "default",
        "rope_theta": 1e6,
        "mrope_section": [half - 2 * side, side, side],
    }
    config.vision_config.out_hidden_size = shape.hidden
    for name, value in (vision or {}).items():
        setattr(config.vision_config, name, value)
    if vision:
        config.vision_config.fullatt_block_indexes = list(range(vision["depth"]))
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        model: Any = AutoModelForImageTextToText.from_config(
            config, dtype=dtype, attn_implementation="sdpa"
        )
    processor = AutoProcessor.from_pretrained(folder)
    return wrap_mllm(model.to(device).eval(), processor, name="random")


def random_batch(mllm: Mllm, length: int, *, seed: int = 0) -> dict[str, Tensor]:
    """One sequence of random tokens: 16 of text, half of them image tokens, then text again.

    No pixels are given, so the image tokens keep their word embedding and no vision tower runs.
    """
    generator = torch.Generator().manual_seed(seed)
    forbidden = min(mllm.image_token_id, *mllm.stop_ids)
    ids = torch.randint(0, forbidden, (1, length), generator=generator)
    ids[0, 16 : 16 + length // 2] = mllm.image_token_id
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {key: value.to(mllm.device) for key, value in batch.items()}


@torch.no_grad()
def forward(mllm: Mllm, batch: dict[str, Tensor], **options: Any) -> Any:
    """A plain forward pass under the model's own attention; one row of logits, no cache.

    All variants keep one row only, so that no large head hides what attention costs.
    """
    with evaluating(mllm.model):
        return mllm.model(**batch, use_cache=False, logits_to_keep=1, **options)


if __name__ == "__main__":
    _main()
