"""`attcot finetune`: a checkpoint fine-tuned as an arm says."""

import argparse
from pathlib import Path

from attcot_analysis.cli import options


def add(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the commands of this group."""
    train = commands.add_parser(
        "finetune",
        parents=[common],
        help="fine-tune a model as an arm says: cot_sft, att_cot, ...; again goes on",
        description="Fine-tune a model as an arm says: all its weights, or adapters (--lora) that "
        "are merged into it at the end. The folder appears when it is done. Run again after an "
        "interruption it goes on from its last checkpoint. For several GPUs use your own trainer, "
        "see docs/training.md.",
    )
    train.add_argument("model", metavar="MODEL", help=options.MODEL)
    train.add_argument("problems", type=Path, help="problem folder, with rationale steps")
    train.add_argument("--out", type=Path, required=True, help="new checkpoint folder")
    train.add_argument("--arm", default="att_cot", help="a name in configs/arms, or a .yaml file")
    train.add_argument("--items", type=int, default=None, help="only the first so many problems")
    train.add_argument("--steps", type=int, default=150, help="optimizer steps")
    train.add_argument("--batch-size", type=int, default=16, help="items per step")
    train.add_argument(
        "--accumulation",
        "--accumulate",
        type=int,
        default=1,
        metavar="N",
        help="parts a batch is split into, one after the other in memory",
    )
    train.add_argument(
        "--learning-rate", type=float, default=1e-3, help="of large models: 1e-5, with LoRA 1e-4"
    )
    train.add_argument(
        "--lora",
        type=int,
        metavar="RANK",
        help="train adapters of this rank on the language model, such as 16, and no other weights",
    )
    train.add_argument(
        "--lora-alpha", type=float, metavar="A", help="their scale over the rank; default 2 RANK"
    )
    train.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="to compute in; trained weights are float32 in either",
    )
    train.add_argument(
        "--gradient-checkpointing", action="store_true", help="less memory, more time, same result"
    )
    train.add_argument("--seed", type=int, default=0, help="of the order of the data")
    train.add_argument("--save-every", type=int, default=50, help="steps between checkpoints")
    train.set_defaults(run=_finetune)


def _finetune(given: argparse.Namespace, quiet: bool) -> None:
    from attcot_analysis.presets import find_preset
    from attcot_analysis.problems.folder import load_problems
    from attcot_analysis.train.finetune import FinetuneConfig
    from attcot_lab.arms import read_arm, train_arm

    preset = find_preset(given.model)
    arm = read_arm(given.arm)
    config = FinetuneConfig(
        steps=given.steps,
        batch_size=given.batch_size,
        accumulation=given.accumulation,
        learning_rate=given.learning_rate,
        seed=given.seed,
        lora=given.lora,
        lora_alpha=given.lora_alpha,
        dtype=given.dtype,
        gradient_checkpointing=given.gradient_checkpointing,
    )
    folder = train_arm(
        arm,
        given.model if preset is None else preset.hub,
        load_problems(given.problems, limit=given.items),
        given.out,
        config,
        save_every=given.save_every,
        progress=not quiet,
    )
    print(f"Checkpoint: {folder}")
