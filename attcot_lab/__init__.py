"""The laboratory: how this project proves itself. The library never imports it.

Testbeds with planted failures, the recipes of sibling systems (SAYO, VISTA), grids of runs, the
claims made from them, and the validity of every diagnostic. Names are resolved on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
