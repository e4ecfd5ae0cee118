"""The laboratory: how this project proves itself. The library never imports it.

Testbeds with planted failures, the recipes of sibling systems (SAYO, VISTA), grids of runs, the
claims made from them, and the validity of every diagnostic. Names are resolved on first use; the
metrics of VISTA's sampling are in `attcot_analysis.METRICS`, and the laboratory's arms known to
figures, from the import on.
"""

from pathlib import Path

import lazy_loader

from attcot_analysis.show.arms import register_arms
from attcot_analysis.stats.catalogue import register_metrics
from attcot_lab.looks import arm_styles

register_arms(arm_styles)
register_metrics(Path(__file__).with_name("vista") / "metrics.yaml")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
