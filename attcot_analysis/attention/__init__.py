"""The instrument: read attention exactly without a T x T matrix, force answers, change it."""

# Before any module here asks transformers for torchvision; see models._torchvision.
import attcot_analysis.models  # noqa: F401
