"""The commands of the laboratory, which `attcot` finds by an entry point."""

import argparse

from attcot_analysis.cli.options import Commands
from attcot_lab.cli import grid, road, start, testbed, training


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add all of them."""
    for group in (start, training, road, grid, testbed):
        group.add(commands, common)
