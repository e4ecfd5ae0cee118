"""Makes `torchvision` importable beside a torch build that its compiled operators do not fit.

The image processors need only torchvision's pure-Python transforms. A CUDA wheel of torchvision
beside a CPU wheel of torch nevertheless fails at import, because it describes operators (``nms``
and others) that the missing library would have defined. Defining their schemas is enough.
"""

import importlib
import re
import sys

import torch

_MISSING = re.compile(r"operator (torchvision::\w+) does not exist")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def ensure_torchvision() -> None:
    """Import torchvision, defining the operators that its missing library does not.

    Raises:
        RuntimeError: If torchvision fails to import for another reason.
        ImportError: If torchvision is not installed.
    """
    while True:
        try:
            importlib.import_module("torchvision")
            return
        except RuntimeError as error:
            missing = _MISSING.search(str(error))
            if missing is None:
                raise
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]
            torch.library.define(missing[1], _SCHEMA)


ensure_torchvision()
