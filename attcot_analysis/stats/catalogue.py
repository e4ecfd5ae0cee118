"""The metric catalogue, read from ``metrics.yaml``: what every metric means and how it fails."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

import yaml

from attcot_analysis.errors import MeasureError, one_line
from attcot_analysis.files import path_of
from attcot_analysis.plain_yaml import read_plain_yaml

Axis = Literal["accuracy", "commitment", "access", "dependence", "prior", "samples"]
Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Metric:
    """One metric: a number per item, averaged over items.

    Attributes:
        name: Value of the tables' ``metric`` column.
        title: What a reader sees.
        axis: Which question it belongs to.
        unit: Unit of its values.
        better: The direction that is an improvement; ``None`` where neither is, by itself.
        definition: What is computed, per item.
        falsifier: What would show that the usual reading of it is wrong.
        source: Paper and section, or "reconstruction".
        formula: The definition as a formula, in the notation of ``metrics.yaml``.
        function: The public function whose table it is made from.
        picture: Name of the picture that shows it, in ``docs/images/measures``.

    Raises:
        MeasureError: If a text is missing, or axis or direction is unknown.
    """

    name: str
    title: str
    axis: Axis
    unit: str
    better: Better | None
    definition: str
    falsifier: str
    source: str
    formula: str = ""
    function: str = ""
    picture: str = ""

    @property
    def binary(self) -> bool:
        """Whether an item's value is 0 or 1."""
        return self.unit == "share of items"

    @property
    def bounded(self) -> bool:
        """Whether its values lie between 0 and 1, and differences between -1 and 1."""
        share = self.unit.startswith("share of ") and not self.unit.endswith("per rationale")
        return share or self.unit == "probability"

    def __post_init__(self) -> None:
        """Refuse a metric nobody could read."""
        for field in ("name", "title", "unit", "definition", "falsifier", "source"):
            if not getattr(self, field).strip():
                raise MeasureError(f"Metric {self.name!r} has no {field}; write one.")
        if self.axis not in get_args(Axis):
            raise MeasureError(
                f"Metric {self.name!r} has axis {self.axis!r}; choose one of "
                f"{', '.join(get_args(Axis))}."
            )
        if self.better not in (None, *get_args(Better)):
            raise MeasureError(
                f"Metric {self.name!r} has better={self.better!r}; choose 'higher', 'lower' or "
                "None."
            )


def _read(path: Path) -> tuple[dict[str, Metric], str]:
    """The metrics of a file like ``metrics.yaml``, by name, and its notation."""
    try:
        content = read_plain_yaml(path)
        given = content["metrics"].items()
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise MeasureError(
            f"{path} cannot be read as metrics by name ({one_line(error)}); give a file like "
            "metrics.yaml."
        ) from error
    try:
        metrics = {name: Metric(name, **fields) for name, fields in given}
    except (TypeError, AttributeError) as error:
        raise MeasureError(
            f"{path} has a metric with a missing or unknown field ({error}); its fields are those "
            "of Metric."
        ) from error
    return metrics, content.get("notation", "")


_METRICS, NOTATION = _read(Path(__file__).with_name("metrics.yaml"))

METRICS: Mapping[str, Metric] = MappingProxyType(_METRICS)
"""All metrics by name, grouped by axis; those of other packages (`register_metrics`) come last."""


def register_metrics(path: str | Path) -> None:
    """Add the metrics of another package to `METRICS`; the same ones again change nothing.

    Args:
        path: A file like ``metrics.yaml``.

    Raises:
        MeasureError: If an entry is no metric, or its name already has another meaning.
    """
    new, _ = _read(path_of(path, MeasureError))
    taken = [name for name, metric in new.items() if _METRICS.get(name, metric) != metric]
    if taken:
        raise MeasureError(
            f"{path} gives the metric {taken[0]!r} another meaning than the catalogue; choose "
            "another name."
        )
    _METRICS.update(new)
