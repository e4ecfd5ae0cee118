"""Measure: when a model decides, whether it looks, and whether the picture matters."""
