"""TRL's `GRPOTrainer`, set up for SAYO on problems."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import Mllm
from attcot_analysis.models.generate import only_settings
from attcot_analysis.problems import Problem
from attcot_analysis.train.checkpoints import Seals, load_weights
from attcot_analysis.train.grpo_rows import grpo_rows
from attcot_analysis.train.lora import language_lora
from attcot_analysis.train.rewards import AccuracyReward, FormatReward, RegionReward
from attcot_analysis.train.weights import check_weights
from attcot_lab.sayo_config import SayoConfig

# isort: split
# After our models package, which makes torchvision importable.
from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer


class SayoTrainer(GRPOTrainer):
    """`GRPOTrainer` that resumes with the weights it saved, and writes no model card."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not load_weights(self, resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        # Else `transformers` adds the checkpoint's own settings to those of the run.
        with only_settings(cast(torch.nn.Module, self.model), self.generation_config):
            return super()._generate_single_turn(*args, **kwargs)

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """Save finite weights only.

        Raises:
            TrainingError: If one is not.
        """
        check_weights(self.model, self.state.global_step)
        super().save_model(*args, **kwargs)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: it would name things that this run has nothing to do with."""


def make_sayo_trainer(
    mllm: Mllm,
    problems: Sequence[Problem],
    config: SayoConfig,
    folder: str | Path,
    *,
    progress: bool = False,
    **arguments: Any,
) -> SayoTrainer:
    """The trainer that `finetune_sayo` runs; `arguments` override its `GRPOConfig`.

    All three rewards are computed and logged, those of weight 0 as well. The tokenizer is set to
    pad on the left, see `RegionReward.bind`.

    Args:
        mllm: Model to train, in place.
        problems: Items, with evidence boxes in their steps for the region reward.
        config: The run.
        folder: Where checkpoints would go.
        progress: Show a progress bar.
        arguments: Any field of `trl.GRPOConfig`.

    Raises:
        TrainingError: If the problems are too few, or settings do not fit together.
    """
    if len(problems) < config.questions:
        raise TrainingError(
            f"{len(problems)} problems do not fill a step of {config.questions} questions; give "
            "more problems, or a smaller number of questions."
        )
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": config.steps,
        "per_device_train_batch_size": config.completions // config.accumulation,
        "gradient_accumulation_steps": config.accumulation,
        "num_generations": config.num_generations,
        "max_completion_length": config.max_completion,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "beta": config.beta,
        "reward_weights": list(config.weights),
        "multi_objective_aggregation": config.aggregation,
        "learning_rate": config.learning_rate,
        "warmup_steps": round(config.warmup * config.steps),
        "lr_scheduler_type": "linear",
        "seed": config.seed,
        "data_seed": config.seed,
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "remove_unused_columns": False,
        "disable_tqdm": not progress,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "use_cpu": mllm.device.type == "cpu",
    }
    mllm.tokenizer.padding_side = "left"
    region = RegionReward(mllm, config.reward)
    trainer = SayoTrainer(
        model=mllm.model,
        processing_class=mllm.processor,
        reward_funcs=[region, AccuracyReward(mllm), FormatReward(mllm)],
        args=GRPOConfig(**{**settings, **arguments}),
        train_dataset=Dataset.from_list(grpo_rows(problems)),
        peft_config=language_lora(config.lora) if config.lora else None,
    )
    region.bind(trainer)
    trainer.add_callback(Seals())
    # It prints every log entry; they are all in the training log.
    trainer.remove_callback(PrinterCallback)
    return trainer
