"""Training on VISTA's sets through TRL: length-normalised likelihood, or DPO beside likelihood."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import (
    Encoded,
    Mllm,
    PromptCache,
    collate,
    encode_problem,
    load_mllm,
)
from attcot_analysis.problems import Problem, parse_response
from attcot_analysis.train.checkpoints import new_folder, run_arguments, train_into
from attcot_analysis.train.data import RationaleDataset, collate_examples
from attcot_analysis.train.finetune import LOG_EVERY, FinetuneConfig
from attcot_analysis.train.trainer import AttCoTMixin
from attcot_lab.settings import check_plain
from attcot_lab.vista.sets import VistaConfig, VistaRound

# isort: split
# After our models package, which makes torchvision importable.
from datasets import Dataset
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer


class LengthNormalisedSFTTrainer(SFTTrainer):
    """TRL's `SFTTrainer` whose loss is the mean over items of each item's mean over its tokens.

    TRL's own is a mean over all tokens of a batch, in which long responses weigh more.

    Source: arXiv 2605.11931, −E[log M(r, ŷ | x) / (|r| + |ŷ|)].
    """

    # The parts of an accumulated batch have equally many items, so their means are averaged.
    loss_is_scaled_for_ga: Any = False

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The loss of one batch; `num_items_in_batch`, a number of tokens, is not needed."""
        outputs = model(**{**inputs, "use_cache": False}, fused_lm_head=True)
        lengths = outputs.label_mask.sum(1).clamp(min=1)
        loss = -(outputs.log_probs.sum(1) / lengths).mean()
        return (loss, outputs) if return_outputs else loss


class VistaSFTTrainer(AttCoTMixin, LengthNormalisedSFTTrainer):
    """Length-normalised likelihood, with the Att-CoT terms where they have weights."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Have parts averaged also by trainers that do not know `loss_is_scaled_for_ga`."""
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False


class VistaDPOTrainer(AttCoTMixin, DPOTrainer):
    """TRL's `DPOTrainer`, stopped by a loss that is not finite, and resumed with its weights."""


class ResponseDataset(RationaleDataset):
    """Responses that a model wrote as examples, token for token.

    Args:
        mllm: The model to train.
        problems: What each response answers.
        responses: Token ids, without end token.
        finished: Whether the end token belongs behind them.
    """

    def __init__(
        self,
        mllm: Mllm,
        problems: Sequence[Problem],
        responses: Sequence[Sequence[int]],
        finished: Sequence[bool],
    ) -> None:
        """Take them; they are encoded when asked for."""
        super().__init__(mllm, problems, mode="direct")
        self._responses, self._finished = responses, finished

    def _encoded(self, index: int) -> Encoded:
        return encode_problem(
            self._mllm,
            self._problems[index],
            response=self._responses[index],
            end=self._finished[index],
        )


PARTS = {"sft": ("chosen",), "dpo": ("chosen", "rejected")}
"""Per objective the columns of its rows that name responses."""


def train_vista_round(
    base: str | Path,
    problems: Sequence[Problem],
    drawn: VistaRound,
    folder: str | Path,
    config: VistaConfig,
    training: FinetuneConfig,
    *,
    save_every: int | None = None,
    progress: bool = False,
) -> Path:
    """Train the base on what a round has drawn, and save model, processor and log.

    Also for a stored round that is to be filtered with other settings: nothing is sampled. As
    with `finetune`, the folder appears only when the run has finished, and with `save_every` an
    interrupted one resumes.

    Args:
        base: Local folder or hub id; also DPO's reference.
        problems: What the responses answer.
        drawn: The round.
        folder: Where to save; must not exist.
        config: Objective, filter and pairs.
        training: Steps, batch size (pairs with DPO), learning rate, seed, and, with SFT, the
            Att-CoT terms (then positives without a rationale step are left out).
        save_every: Steps between checkpoints, a multiple of `LOG_EVERY`; default none.
        progress: Show a progress bar.

    Raises:
        TrainingError: If the folder exists, nothing is left to train on, DPO is to be combined
            with Att-CoT terms, or the loss is not finite.
    """
    check_plain(training, "VISTA")
    new_folder(folder)
    rows = training_rows(drawn, config, training)

    def make(mllm: Mllm, working: Path, **arguments: Any) -> VistaSFTTrainer | VistaDPOTrainer:
        # Responses to a question share its picture.
        caching = replace(mllm, cache=PromptCache())
        return make_vista_trainer(
            caching, base, problems, drawn, rows, config, training, working, progress, **arguments
        )

    return train_into(
        folder,
        make,
        base,
        problems,
        {**asdict(training), "vista": asdict(config)},
        seed=training.seed,
        noted={"rows": len(rows)},
        inputs={"rows": _hash(drawn, rows)},
        log_every=LOG_EVERY,
        save_every=save_every,
    )


def training_rows(drawn: VistaRound, config: VistaConfig, training: FinetuneConfig) -> pd.DataFrame:
    """What of a round is trained on: ``item``, ``chosen`` and, with DPO, ``rejected``.

    Raises:
        TrainingError: If nothing is left, or DPO is to be combined with Att-CoT terms.
    """
    if config.objective == "dpo" and training.attcot.active:
        raise TrainingError(
            "The Att-CoT terms are defined on responses to be learned, which pairs of DPO are "
            "not; use objective='sft' or leave attcot out."
        )
    selected = drawn.positives(config)
    if training.attcot.active:
        texts = drawn.column("text")
        steps = [
            bool(parse_response(texts[key]).steps)
            for key in zip(selected["item"], selected["number"], strict=True)
        ]
        selected = selected.assign(kept=selected["kept"] & np.array(steps, dtype=bool))
    rows = selected[selected["kept"]].rename(columns={"number": "chosen"})[["item", "chosen"]]
    if config.objective == "dpo":
        rows = drawn.pairs(config, seed=training.seed, selected=selected)
    if not len(rows):
        said = "of them has a wrong response beside it" if len(selected) else "is there to keep"
        raise TrainingError(
            f"{len(selected)} responses are right, but none {said}, so that there is nothing to "
            "train on; draw more samples, raise the temperature, or start from a better base."
        )
    return rows.reset_index(drop=True)


def make_vista_trainer(
    mllm: Mllm,
    base: str | Path,
    problems: Sequence[Problem],
    drawn: VistaRound,
    rows: pd.DataFrame,
    config: VistaConfig,
    training: FinetuneConfig,
    folder: str | Path,
    progress: bool = False,
    **arguments: Any,
) -> VistaSFTTrainer | VistaDPOTrainer:
    """The trainer that `train_vista_round` runs.

    Args:
        mllm: Model to train, in place.
        base: DPO's reference.
        problems: What the responses answer.
        drawn: The round.
        rows: From `training_rows`.
        config: Objective and its weights.
        training: The run.
        folder: Where checkpoints would go.
        progress: Show a progress bar.
        arguments: Override the arguments of TRL's `SFTConfig` or `DPOConfig`.
    """
    parts = PARTS[config.objective]
    by_id = {problem.id: problem for problem in problems}
    ids, finished = drawn.column("ids"), drawn.column("finished")
    keys = [key for part in parts for key in zip(rows["item"], rows[part], strict=True)]
    data = ResponseDataset(
        mllm,
        [by_id[item] for item, _ in keys],
        [ids[key] for key in keys],
        [bool(finished[key]) for key in keys],
    )

    def collator(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
        examples = [
            data[part * len(rows) + one["at"]] for part in range(len(parts)) for one in batch
        ]
        if config.objective == "sft":
            return collate_examples(mllm, examples)
        return preference_batch(mllm, [example.encoded for example in examples])

    settings = {
        **run_arguments(folder, training, progress=progress),
        "per_device_train_batch_size": training.batch_size // training.accumulation,
        "learning_rate": config.learning_rate or training.learning_rate,
        "bf16": False,
        "gradient_checkpointing": False,
        "max_length": None,
        "logging_steps": LOG_EVERY,
        "dataloader_drop_last": len(rows) >= training.batch_size,
        **arguments,
    }
    shared: dict[str, Any] = {
        "model": mllm.model,
        "processing_class": mllm.processor,
        # TRL knows a vision dataset by the name of this column.
        "train_dataset": Dataset.from_dict(
            {"at": range(len(rows)), "image": rows["item"].tolist()}
        ),
        "data_collator": collator,
        "mllm": mllm,
    }
    trainer: Any
    if config.objective == "sft":
        trainer = VistaSFTTrainer(args=SFTConfig(**settings), attcot=training.attcot, **shared)
    else:
        weighted: dict[str, Any] = {
            "loss_type": ["sigmoid", "sft"],
            "loss_weights": [1.0, config.nll],
        }
        trainer = VistaDPOTrainer(
            args=DPOConfig(beta=config.beta, **weighted, **settings),
            ref_model=load_mllm(base, dtype=torch.float32).model,
            **shared,
        )
    # It prints every log entry; they are all in the training log.
    trainer.remove_callback(PrinterCallback)
    return trainer


def preference_batch(mllm: Mllm, items: Sequence[Encoded]) -> dict[str, Any]:
    """Chosen items, then as many rejected ones, as TRL's `DPOTrainer` takes them, on the CPU.

    TRL's own collator makes the same of texts; this one keeps the tokens that were sampled.
    """
    batch: dict[str, Any] = collate(mllm, items, device="cpu")
    starts = torch.tensor([item.prompt_length for item in items])[:, None]
    behind = torch.arange(batch["input_ids"].shape[1]) >= starts
    return {**batch, "completion_mask": behind.long() * batch["attention_mask"]}


def _hash(drawn: VistaRound, rows: pd.DataFrame) -> str:
    """Of the tokens that rows are trained on."""
    ids = drawn.column("ids")
    used = [
        [item, *([int(token) for token in ids[item, number]] for number in numbers)]
        for item, *numbers in rows.itertuples(index=False)
    ]
    return hashlib.sha256(json.dumps(used).encode()).hexdigest()
