"""Options that several commands share."""

import argparse
import os
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What `add_subparsers` returns: a group adds its commands to it."""


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Let a command be shared by several processes."""
    parser.add_argument(
        "--workers", type=int, default=0, help="processes; 0: one per core, or 1 with a GPU"
    )


def workers(given: argparse.Namespace) -> int:
    """How many processes were asked for."""
    import torch

    return given.workers or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
