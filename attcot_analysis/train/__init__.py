"""Fine-tuning: CoT-SFT and the Att-CoT objective, measured by the probe that analyses them."""

import lazy_loader

# Before any module here asks transformers for torchvision; see models._torchvision.
import attcot_analysis.models  # noqa: F401

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
