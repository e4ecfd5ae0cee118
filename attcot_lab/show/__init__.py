"""Figures of the laboratory: cells of grids, rewards, samples, separation."""
