"""Testbed A: generated problems, tiny models, planted failures."""
