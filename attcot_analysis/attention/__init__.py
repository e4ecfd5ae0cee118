"""The instrument: read attention exactly without a T x T matrix, force answers, change it."""
