"""SAYO: GRPO on problems with the region-level visual attention reward, as a run and as a recipe.

Source: arXiv 2602.08241 and its published code; what is ours or a reconstruction is said in
`SayoConfig`, `RegionRewardConfig` and ``docs/sayo.md``.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import load_mllm
from attcot_analysis.problems import Problem
from attcot_analysis.train.checkpoints import (
    KeepLast,
    alone,
    clear,
    new_folder,
    open_unfinished,
    run_record,
    save_result,
)
from attcot_analysis.train.finetune import LOG_FILE, FinetuneConfig, finetune, recorded
from attcot_analysis.train.weights import check_weights, train
from attcot_lab.sayo_config import SFT_FIRST, SayoConfig, sayo_config

_TIMES = ("step_time", "train_runtime")
"""What differs between two equal runs has no place in their logs."""


def finetune_sayo(
    base: str | Path,
    problems: Sequence[Problem],
    folder: str | Path,
    config: SayoConfig | None = None,
    *,
    save_every: int | None = None,
    progress: bool = False,
) -> Path:
    """Train `base` with GRPO and save model, processor and log into `folder`.

    The folder appears only when the run has finished. With `save_every` a run that was killed
    goes on from its last complete checkpoint when it is called again in the same way, and ends
    with the weights of one that was not (to the last bit on the CPU); remains of a run with other
    settings, problems or base are thrown away.

    The log holds TRL's values per step, among them ``rewards/region/mean``,
    ``rewards/accuracy/mean`` and ``rewards/format/mean``, and beside them ``region/ratio``,
    ``region/visual_mass``, ``region/box_mass``, and ``region/none``, the share of completions
    without region reward, with the same by reason.

    Args:
        base: Local folder or hub id.
        problems: Items, with evidence boxes in their steps for the region reward.
        folder: Where to save; must not exist.
        config: The run.
        save_every: Steps between checkpoints; default none.
        progress: Show a progress bar.

    Returns:
        `folder`, a checkpoint that `load_mllm` reads.

    Raises:
        TrainingError: If the folder exists, or settings do not fit.
    """
    from attcot_lab.sayo_trainer import make_sayo_trainer

    config = config or SayoConfig()
    folder = new_folder(folder)
    if save_every is not None and save_every < 1:
        raise TrainingError(f"save_every is {save_every}; give a number of steps from 1.")
    with alone(folder):
        # Another run may have finished it since.
        new_folder(folder)
        set_seed(config.seed)
        mllm = load_mllm(base, dtype=torch.float32)
        working = folder.with_name(f".{folder.name}.unfinished")
        options: dict[str, Any] = {}
        if save_every is not None:
            options = {"save_strategy": "steps", "save_steps": save_every}
        side = mllm.tokenizer.padding_side
        trainer = make_sayo_trainer(mllm, problems, config, working, progress=progress, **options)
        last = None
        with trainer.accelerator.main_process_first():
            if save_every is not None:
                last = open_unfinished(working, run_record(base, problems, asdict(config)))
            elif trainer.is_world_process_zero():
                shutil.rmtree(working, ignore_errors=True)
        trainer.add_callback(KeepLast())
        train(trainer, last)
        mllm.tokenizer.padding_side = side
        if trainer.is_world_process_zero():
            trained: Any = trainer.model
            check_weights(trained, trainer.state.global_step)
            model = trained.merge_and_unload() if config.lora else mllm.model
            save_result(trainer, model, mllm.processor, working)
            history = [
                {name: value for name, value in entry.items() if name not in _TIMES}
                for entry in trainer.state.log_history
                if "train_runtime" not in entry
            ]
            log = {"config": asdict(config), "base": str(base), "history": history}
            (working / LOG_FILE).write_text(json.dumps(log, indent=1))
            clear(working)
            os.replace(working, folder)
        trainer.accelerator.wait_for_everyone()
    return folder


def train_sayo(
    name: str,
    options: Mapping[str, Any],
    base: str | Path,
    problems: Sequence[Problem],
    folder: str | Path,
    config: FinetuneConfig,
    *,
    save_every: int | None = None,
    progress: bool = False,
) -> Path:
    """Train an arm of the recipe ``sayo``.

    Of `config` the seed counts, and the steps where the options name none. With the option
    ``sft_first`` the base is first fine-tuned as `config` says, Att-CoT terms included.

    Args:
        name: The arm's, for errors.
        options: The arm's; see `sayo_config`.
        base: Local folder or hub id.
        problems: Items, with evidence boxes in their steps for the region reward.
        folder: Where to save; must not exist.
        config: The run of the stage before, and what is said above.
        save_every: Steps between checkpoints that an interrupted run goes on from.
        progress: Show a progress bar.

    Raises:
        TrainingError: If the arm learns direct answers, or has Att-CoT terms and no stage for
            them; or as `finetune` and `finetune_sayo` raise it.
    """
    first = bool(options.get(SFT_FIRST, False))
    if config.mode != "cot":
        raise TrainingError(
            f"Arm {name}: SAYO rewards rationales, which mode 'direct' has none of; use 'cot'."
        )
    if config.attcot.active and not first:
        raise TrainingError(
            f"Arm {name}: GRPO has no place for the Att-CoT terms; set the option "
            f"{SFT_FIRST}: true to train them in a stage before it."
        )
    own = sayo_config(options, steps=config.steps, seed=config.seed)
    if not first:
        return finetune_sayo(base, problems, folder, own, save_every=save_every, progress=progress)
    folder = new_folder(folder)
    stages = folder.with_name(f".{folder.name}.stages")
    open_unfinished(stages, run_record(base, problems, recorded(config)))
    tuned = stages / "sft"
    if not tuned.exists():
        finetune(base, problems, tuned, config, save_every=save_every, progress=progress)
    finetune_sayo(tuned, problems, folder, own, save_every=save_every, progress=progress)
    shutil.rmtree(stages)
    return folder
