"""Fine-tuning: CoT-SFT and the Att-CoT objective, measured by the probe that analyses them."""

# Before any module here asks trl for torchvision; see models._torchvision.
import attcot_analysis.models  # noqa: F401
from attcot_analysis.train.data import RationaleCollator, RationaleDataset
from attcot_analysis.train.finetune import FinetuneConfig, finetune, language_lora, make_trainer
from attcot_analysis.train.objective import AttCoTConfig
from attcot_analysis.train.terms import AttCoTTerms, visual_target
from attcot_analysis.train.trainer import AttCoTMixin, AttCoTTrainer, attach

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
