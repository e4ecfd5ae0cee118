"""Fine-tuning: CoT-SFT and the Att-CoT objective, measured by the probe that analyses them."""

from attcot_analysis.train.data import RationaleCollator, RationaleDataset
from attcot_analysis.train.finetune import FinetuneConfig, finetune, make_trainer
from attcot_analysis.train.lora import language_lora
from attcot_analysis.train.objective import AttCoTConfig
from attcot_analysis.train.terms import AttCoTTerms
from attcot_analysis.train.trainer import AttCoTMixin, AttCoTTrainer, attach
from attcot_analysis.train.visual_target import visual_target

__all__ = [
    "AttCoTConfig",
    "AttCoTMixin",
    "AttCoTTerms",
    "AttCoTTrainer",
    "FinetuneConfig",
    "RationaleCollator",
    "RationaleDataset",
    "attach",
    "finetune",
    "language_lora",
    "make_trainer",
    "visual_target",
]
