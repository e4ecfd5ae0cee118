"""SAYO: GRPO on problems with the region-level visual attention reward, as a run and as a recipe.

Source: arXiv 2602.08241 and its published code; what is ours or a reconstruction is said in
`SayoConfig`, `RegionRewardConfig` and ``docs/sayo.md``.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast

import torch

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import Mllm
from attcot_analysis.models.generate import only_settings
from attcot_analysis.problems import Problem
from attcot_analysis.train.checkpoints import (
    SafeCheckpoints,
    new_folder,
    open_unfinished,
    run_arguments,
    run_record,
    train_into,
)
from attcot_analysis.train.finetune import FinetuneConfig, finetune, language_lora
from attcot_analysis.train.region_reward import RegionRewardConfig
from attcot_analysis.train.rewards import AccuracyReward, FormatReward, RegionReward, grpo_rows
from attcot_analysis.train.settings import (
    Amount,
    Count,
    Index,
    Positive,
    Several,
    Share,
    SomeShare,
    Weight,
    check_settings,
)
from attcot_lab.settings import read_settings

# isort: split
# After our models package, which makes torchvision importable.
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

Aggregation = Literal["normalize_then_sum", "sum_then_normalize"]


@dataclass(frozen=True)
class SayoConfig:
    """One run of GRPO with the region reward (SAYO, arXiv 2602.08241).

    What its published code and script set is named as theirs; the rest is a reconstruction.

    Attributes:
        steps: Optimizer steps.
        questions: Per step and process.
        num_generations: Completions per question, whose rewards are compared (theirs: 16).
        accumulation: Parts a step's completions are split into to save memory.
        attention: Weight of the region reward; theirs has this and the form, 1 each.
        accuracy: Weight of the right answer (theirs: not in the run).
        form: Weight of the form.
        reward: What the region reward looks at.
        aggregation: ``"normalize_then_sum"``: each reward is normalised among a question's
            completions, and one that cannot be computed counts as their mean (ours).
            ``"sum_then_normalize"`` (theirs): the weighted sum is normalised, in which a missing
            reward would count as 0; refused with more than one weight.
        learning_rate: Peak of AdamW's rate (theirs: 5e-6, with LoRA); linear decay.
        warmup: Share of the steps that warms up.
        temperature: Of the sampling (theirs: 1).
        top_p: Of the sampling (theirs: 0.9; here 1, so that what is sampled is what is trained).
        beta: Weight of the KL term to the base (theirs: 0.001; at 0 no second model is kept).
        max_completion: Tokens (theirs: 110).
        lora: Rank of adapters on the text stack, merged at the end; 0 trains all weights (theirs:
            16 on all linear layers).
        seed: Order of the data and the sampling.

    Raises:
        TrainingError: If a value is out of range.
    """

    steps: Count = 100
    questions: Count = 4
    num_generations: Several = 8
    accumulation: Count = 1
    attention: Weight = 1.0
    accuracy: Weight = 1.0
    form: Weight = 1.0
    reward: RegionRewardConfig = field(default_factory=RegionRewardConfig)
    aggregation: Aggregation = "normalize_then_sum"
    learning_rate: Amount = 5e-6
    warmup: Share = 0.0
    temperature: Positive = 1.0
    top_p: SomeShare = 1.0
    beta: Amount = 0.0
    max_completion: Count = 256
    lora: Index = 0
    seed: Index = 0

    def __post_init__(self) -> None:
        """Check the values."""
        check_settings(self)
        if not any(self.weights):
            raise TrainingError(
                "attention, accuracy and form all have weight 0, so that nothing is rewarded; give "
                "one of them a weight."
            )
        if self.completions % self.accumulation:
            raise TrainingError(
                f"{self.completions} completions per step do not split into {self.accumulation} "
                "equal parts; choose an accumulation that divides them."
            )

    @property
    def completions(self) -> int:
        """Per step and process."""
        return self.questions * self.num_generations

    @property
    def weights(self) -> tuple[float, float, float]:
        """Of the region, accuracy and format rewards."""
        return self.attention, self.accuracy, self.form


SFT_FIRST = "sft_first"
"""The option of an arm that runs its CoT-SFT or Att-CoT stage before GRPO."""

OPTIONS = (*(one.name for one in fields(SayoConfig) if one.name != "seed"), SFT_FIRST)
"""What an arm of the recipe ``sayo`` can set."""


def sayo_config(options: Mapping[str, Any], *, steps: int, seed: int) -> SayoConfig:
    """The run that an arm's options describe.

    Args:
        options: Fields of `SayoConfig`, ``reward`` with fields of `RegionRewardConfig`; others
            are not looked at.
        steps: Where the options name none.
        seed: Of the run.

    Raises:
        TrainingError: If a field is unknown, or a value does not fit.
    """
    given = {key: value for key, value in options.items() if key != SFT_FIRST}
    reward = read_settings(RegionRewardConfig, given.pop("reward", None) or {})
    return read_settings(SayoConfig, {"steps": steps, **given}, reward=reward, seed=seed)


class SayoTrainer(SafeCheckpoints, GRPOTrainer):
    """`GRPOTrainer` that resumes with the weights it saved, and writes no model card."""

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        # Else `transformers` adds the checkpoint's own settings to those of the run.
        with only_settings(cast(torch.nn.Module, self.model), self.generation_config):
            return super()._generate_single_turn(*args, **kwargs)

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
    settings = {
        **run_arguments(folder, config, progress=progress),
        "per_device_train_batch_size": config.completions // config.accumulation,
        "num_generations": config.num_generations,
        "max_completion_length": config.max_completion,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "beta": config.beta,
        "reward_weights": list(config.weights),
        "multi_objective_aggregation": config.aggregation,
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "use_cpu": mllm.device.type == "cpu",
    }
    mllm.tokenizer.padding_side = "left"
    region = RegionReward(mllm, config.reward)
    trainer = SayoTrainer(
        model=mllm.model,
        processing_class=mllm.processor,
        reward_funcs=[region, AccuracyReward(mllm), FormatReward(mllm)],
        args=GRPOConfig(**{**settings, **arguments}),
        train_dataset=grpo_rows(problems),
        peft_config=language_lora(config.lora) if config.lora else None,
    )
    region.bind(trainer)
    # It prints every log entry; they are all in the training log.
    trainer.remove_callback(PrinterCallback)
    return trainer


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

    As with `finetune`, the folder appears only when the run has finished, and with `save_every` an
    interrupted one resumes.

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
    config = config or SayoConfig()

    def make(mllm: Mllm, working: Path, **arguments: Any) -> SayoTrainer:
        return make_sayo_trainer(mllm, problems, config, working, progress=progress, **arguments)

    return train_into(
        folder, make, base, problems, asdict(config), seed=config.seed, save_every=save_every
    )


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
        save_every: Steps between checkpoints that an interrupted run resumes from.
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
    open_unfinished(stages, run_record(base, problems, asdict(config)))
    tuned = stages / "sft"
    if not tuned.exists():
        finetune(base, problems, tuned, config, save_every=save_every, progress=progress)
    finetune_sayo(tuned, problems, folder, own, save_every=save_every, progress=progress)
    shutil.rmtree(stages)
    return folder
