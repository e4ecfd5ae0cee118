"""The instrument: read attention exactly without a T x T matrix, force answers, change it."""

import lazy_loader

# Before any module here asks transformers for torchvision; see models._torchvision.
import attcot_analysis.models  # noqa: F401

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
