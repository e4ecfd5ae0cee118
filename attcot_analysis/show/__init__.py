"""Show: curves, interval plots, heatmaps, an explorer and the report; nothing is measured here."""
