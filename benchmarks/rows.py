"""`Row`: one measured number of a bench, with the bar it must reach."""

import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from attcot_analysis.errors import MeasureError, RunError, passing


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
    judge: bool = True,
) -> Row:
    """A row with a bar; a value that is no number does not hold.

    Args:
        name: What was measured.
        value: The number.
        unit: Of the value and of the bar.
        at_least: Lower bound.
        at_most: Upper bound.
        judge: With ``False`` the bar is left out, as at shapes it was not set for.
    """
    if not judge:
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


def circumstances(device: str, quick: bool) -> list[Row]:
    """Under what a bench ran, as rows."""
    import torch

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
