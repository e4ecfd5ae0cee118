"""How the cells of a grid look in every figure: families by colour, scales by marker."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from attcot_analysis.show.style import INK

_COLORS = ("#0173b2", "#d55e00", "#029e73", "#cc78bc", "#8c6d5a", "#b59f00")
_MARKERS = ("o", "s", "D", "^", "v", "P")
_NAMES = {"qwen2_5_vl": "Qwen2.5-VL", "internvl": "InternVL", "llava": "LLaVA"}


def family_name(family: str) -> str:
    """What a reader sees for a model family."""
    return _NAMES.get(family, family)


@dataclass(frozen=True)
class CellStyle:
    """Colours and markers of the families and scales of one table.

    Attributes:
        families: In the order of the table.
        scales: In the order of the table.
    """

    families: tuple[str, ...]
    scales: tuple[str, ...]

    @classmethod
    def of(cls, cells: pd.DataFrame) -> "CellStyle":
        """Those of a table with the columns ``family`` and ``scale``."""
        return cls(tuple(dict.fromkeys(cells["family"])), tuple(dict.fromkeys(cells["scale"])))

    def color(self, family: str) -> str:
        """Colour of a family."""
        return _COLORS[self.families.index(family) % len(_COLORS)]

    def marker(self, scale: str) -> str:
        """Marker of a scale."""
        return _MARKERS[self.scales.index(scale) % len(_MARKERS)]

    def handles(self) -> list[Line2D]:
        """Entries of a legend."""
        return [
            Line2D([], [], color=self.color(name), linewidth=3, label=family_name(name))
            for name in self.families
        ] + [
            Line2D([], [], color=INK, marker=self.marker(name), linestyle="", label=name)
            for name in self.scales
        ]


def legend_above(figure: Figure, handles: Sequence[Line2D], title: str) -> None:
    """A legend above all panels, under the figure's title."""
    figure.legend(
        handles=list(handles),
        loc="outside upper left",
        ncols=len(handles),
        title=title or None,
        title_fontproperties={"weight": "bold", "size": 10.5},
        alignment="left",
        handlelength=1.6,
    )
