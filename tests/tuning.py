"""Fine-tuning in a process that may be killed while it writes."""

import os
import signal
import sys
from pathlib import Path

from attcot_analysis.problems import Problem
from attcot_analysis.train import FinetuneConfig
from attcot_analysis.train.finetune import finetune
from attcot_lab.testbed.arrows import ArrowsConfig, generate_arrows


def problems() -> list[Problem]:
    """Six items whose answer is nearly always the habitual one."""
    return generate_arrows(6, ArrowsConfig(prior=0.95), seed=1, split="train")


def train(folder: Path, base: Path, config: FinetuneConfig, killed_at: str = "") -> None:
    """Fine-tune; the process is killed when it is about to write a file that ends so."""

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and killed_at and str(arguments[0]).endswith(killed_at):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    finetune(base, problems(), folder, config, save_every=10)
