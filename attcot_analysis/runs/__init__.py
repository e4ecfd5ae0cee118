"""One model on one set of items in a folder: resumable, shared by processes, with provenance."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
