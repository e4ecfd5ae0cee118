"""Testbeds A and B: generated problems, tiny models, planted failures."""
