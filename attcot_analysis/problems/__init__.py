"""Problems: questions about pictures, with steps, evidence boxes and counterfactual edits."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
