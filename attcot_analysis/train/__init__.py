"""Fine-tuning: CoT-SFT and the Att-CoT objective, measured by the probe that analyses them."""

from attcot_analysis.train.data import RationaleCollator, RationaleDataset
from attcot_analysis.train.finetune import FinetuneConfig, finetune, make_trainer
from attcot_analysis.train.objective import AttCoTConfig
from attcot_analysis.train.trainer import AttCoTMixin, AttCoTTrainer

__all__ = [
    "AttCoTConfig",
    "AttCoTMixin",
    "AttCoTTrainer",
    "FinetuneConfig",
    "RationaleCollator",
    "RationaleDataset",
    "finetune",
    "make_trainer",
]
