"""VISTA: self-improvement with prefix resampling and a vision-aware attention score."""
