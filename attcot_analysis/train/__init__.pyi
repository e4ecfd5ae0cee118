"""The names of this room, each with its home: `__init__.py` reads them from here."""

from .data import RationaleCollator as RationaleCollator
from .data import RationaleDataset as RationaleDataset
from .finetune import FinetuneConfig as FinetuneConfig
from .finetune import language_lora as language_lora
from .finetune import make_trainer as make_trainer
from .heldout import HeldOut as HeldOut
from .objective import AttCoTConfig as AttCoTConfig
from .region_reward import RegionRewardConfig as RegionRewardConfig
from .region_reward import region_attention as region_attention
from .rewards import AccuracyReward as AccuracyReward
from .rewards import FormatReward as FormatReward
from .rewards import RegionReward as RegionReward
from .rewards import grpo_rows as grpo_rows
from .terms import AttCoTTerms as AttCoTTerms
from .terms import visual_target as visual_target
from .trainer import AttCoTMixin as AttCoTMixin
from .trainer import AttCoTSFTTrainer as AttCoTSFTTrainer
from .trainer import AttCoTTrainer as AttCoTTrainer
from .trainer import CotCollator as CotCollator
from .trainer import attach as attach
from .trainer import prompt_completion_rows as prompt_completion_rows
