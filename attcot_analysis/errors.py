"""The errors a user can meet: one sentence each, naming what was wrong and what to do."""


class AttCoTError(ValueError):
    """Base of every error this package raises on purpose."""


class ProblemError(AttCoTError):
    """A problem, its picture, its steps or its edits contradict each other or cannot be read."""


class ModelError(AttCoTError):
    """A checkpoint cannot be loaded or belongs to no supported family."""


class LayoutError(AttCoTError):
    """The tokens of an input do not have the structure that a measurement needs."""


class MeasureError(AttCoTError):
    """A measurement was asked for on input it is not defined for."""


class TrainingError(AttCoTError):
    """A fine-tuning run is configured, or has turned, into something that must not go on."""


class NotebookError(AttCoTError):
    """A notebook is missing, does not run, or lacks what its place in the course asks for."""


class RunError(AttCoTError):
    """A run folder is missing, damaged, or would be overwritten."""


class ShowError(AttCoTError):
    """A figure, an explorer or a report was asked for something that its data do not hold."""
