"""Rewards for TRL's `GRPOTrainer`: attention on evidence boxes, the right answer, the form.

Rows of the dataset need TRL's ``prompt`` (conversational) and ``images`` (or ``image``), and beside
them ``boxes``, per rationale step a list of pixel boxes, for the region reward; ``candidates`` and
``answer``, and ``question`` where it gives letters to candidates, for the accuracy reward::

    region = RegionReward(mllm)
    trainer = GRPOTrainer(
        model=mllm.model,
        processing_class=mllm.processor,
        reward_funcs=[region, AccuracyReward(mllm), FormatReward(mllm)],
        args=GRPOConfig(multi_objective_aggregation="normalize_then_sum", ...),
        train_dataset=grpo_rows(problems),
    )
    region.bind(trainer)

A reward that cannot be computed is ``None``. TRL's default, a weighted sum, counts that as 0 beside
other rewards; `RegionReward.bind` refuses it.
"""

import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
from PIL import Image

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import Encoded, Mllm, PromptCache, encode_prompt, read_image
from attcot_analysis.problems import Problem
from attcot_analysis.problems.formats import TAGS, ResponseFormat
from attcot_analysis.problems.reading import choice_text, match_answer, stated_answer
from attcot_analysis.problems.scoring import RIGHT, score_open
from attcot_analysis.train.data import lazy_rows
from attcot_analysis.train.region_reward import (
    Missing,
    RegionAttention,
    RegionRewardConfig,
    continued,
    region_attention,
)

_RULE = ("scoring", "references", "tolerance")
"""Columns of open questions, as `Problem` has them; a dataset may lack them."""


def grpo_rows(problems: Sequence[Problem], form: ResponseFormat = TAGS) -> Any:
    """Problems as rows for `GRPOTrainer`, with the columns that the rewards read.

    Args:
        problems: The items.
        form: The format to ask for.

    Returns:
        A `datasets.Dataset`, whose pictures are decoded when they are looked at.
    """
    system = [] if form.system is None else [{"role": "system", "content": form.system}]
    rules = not all(problem.candidates for problem in problems)
    rows = [
        {
            "id": problem.id,
            "prompt": [*system, {"role": "user", "content": _asked(problem, form)}],
            "question": problem.question,
            "candidates": list(problem.candidates),
            "answer": problem.answer,
            "boxes": [[list(box) for box in step.boxes] for step in problem.steps],
            **({name: getattr(problem, name) for name in _RULE} if rules else {}),
        }
        for problem in problems
    ]
    return lazy_rows(rows, problems)


def _asked(problem: Problem, form: ResponseFormat) -> str:
    parts = [form.question(problem.question, problem.candidates), form.cot]
    return "\n".join(part for part in parts if part)


def rows_of(columns: Mapping[str, Any], needed: Sequence[str], name: str) -> list[dict[str, Any]]:
    """Per completion the columns that a reward reads, with ``question`` and rule if they are there.

    Args:
        columns: What `GRPOTrainer` passes on, one value per completion in each.
        needed: Which must be there.
        name: The reward's, for the error.

    Raises:
        TrainingError: If one is not.
    """
    missing = [column for column in needed if column not in columns]
    if missing:
        raise TrainingError(
            f"The {name} reward needs column {', '.join(missing)} in the dataset; add it, and keep "
            "remove_unused_columns=False."
        )
    known = {key: columns[key] for key in (*needed, "question", *_RULE) if key in columns}
    return [dict(zip(known, values, strict=True)) for values in zip(*known.values(), strict=True)]


def pictures_of(messages: Sequence[Mapping[str, Any]]) -> list[Image.Image]:
    """The pictures of a prompt as `GRPOTrainer` puts them into its messages, in order."""
    parts = [
        part
        for message in messages
        if not isinstance(message.get("content"), str)
        for part in message.get("content") or ()
    ]
    return [read_image(part["image"]) for part in parts if part["type"] == "image"]


def picture_key(picture: Image.Image) -> tuple[tuple[int, int], bytes]:
    """Equal for pictures with equal pixels; datasets decode a picture anew each time it is used."""
    return picture.size, hashlib.blake2b(picture.tobytes()).digest()


LogMetric = Callable[[str, float], None]

_WRONG = "wrong"

_TAG = r"</?(?:think|answer)>"

_FORM = re.compile(
    rf"\s*<think>(?:(?!{_TAG}).)*</think>\s*<answer>(?:(?!{_TAG}).)*\S(?:(?!{_TAG}).)*</answer>\s*",
    re.DOTALL,
)


class AccuracyReward:
    """1 for a completion that states the right answer, 0 for one that does not.

    Of open questions it is the score by the problem's rule, which may be graded. What counts as
    stating it is what `answer_problems` counts. ``None`` for rows without answer.
    """

    __name__ = "accuracy"

    def __init__(self, mllm: Mllm) -> None:
        """Read completions with the model's tokenizer."""
        self.mllm = mllm

    def __call__(
        self, completion_ids: Sequence[Sequence[int]], **columns: Any
    ) -> list[float | None]:
        """One reward per completion.

        Raises:
            TrainingError: If the dataset lacks ``answer`` or ``candidates``.
        """
        rows = rows_of(columns, ("answer", "candidates"), self.__name__)
        return [
            None if row["answer"] is None else _score(self.mllm, ids, row)
            for ids, row in zip(completion_ids, rows, strict=True)
        ]


class FormatReward:
    """1 for a finished completion of one rationale and one answer in their tags, 0 for any other.

    SAYO's code asks for exactly one answer in tags and scales it by length, around its limit of
    110 tokens; we ask for the rationale's tags as well, as our prompts do, and for no length.
    """

    __name__ = "format"

    def __init__(self, mllm: Mllm) -> None:
        """Read completions with the model's tokenizer."""
        self.mllm = mllm

    def __call__(
        self, completion_ids: Sequence[Sequence[int]], **columns: Any
    ) -> list[float | None]:
        """One reward per completion."""
        stop = set(self.mllm.stop_ids)
        return [
            float(any(token in stop for token in ids) and self._fits(ids)) for ids in completion_ids
        ]

    def _fits(self, ids: Sequence[int]) -> bool:
        if self.mllm.format.rationale == TAGS.rationale and self.mllm.format.answer == TAGS.answer:
            return _FORM.fullmatch(self.mllm.response_text(ids)) is not None
        parsed = self.mllm.parse(ids)
        return bool(parsed.steps and parsed.answer) and not parsed.surplus


class RegionReward:
    """``tanh(log rho)`` of each completion, plus `RegionRewardConfig.mass_weight` times its mass.

    ``None`` where it cannot be computed (`attcot_analysis.train.region_reward.Missing`), or where
    only right answers get one and this is none; both are counted and logged.

    Attributes:
        mllm: The model that is trained, as `transformers` knows it, not the PEFT wrapper.
        config: What to look at.
        counts: How often which reason left a completion without reward, in this process.
        seen: What was read of the last batch.
    """

    __name__ = "region"

    def __init__(self, mllm: Mllm, config: RegionRewardConfig | None = None) -> None:
        """Check what is to be read against the model.

        Raises:
            TrainingError: If a layer cannot be read.
        """
        self.mllm = mllm
        self.config = config or RegionRewardConfig()
        self.config.chosen_layers(mllm)
        self.counts: Counter[str] = Counter()
        self.seen: list[RegionAttention] = []
        self._trainer: Any = None

    def bind(self, trainer: Any) -> "RegionReward":
        """Read the model as this trainer samples from it: its temperature, autocast, template.

        Args:
            trainer: A `GRPOTrainer` that trains the model.

        Raises:
            TrainingError: If it trains another model, or its settings would make a missing reward
                count as 0 or misplace image tokens.
        """
        if not any(module is self.mllm.model for module in trainer.model.modules()):
            raise TrainingError(
                "The trainer does not train the model whose attention is to be rewarded; wrap the "
                "model object that was handed to the trainer (wrap_mllm(model, processor))."
            )
        weighted = int((trainer.reward_weights != 0).sum())
        if weighted > 1 and trainer.multi_objective_aggregation == "sum_then_normalize":
            raise TrainingError(
                "A reward that cannot be computed would count as 0 in the sum of several rewards; "
                "set multi_objective_aggregation='normalize_then_sum' in the GRPOConfig."
            )
        side = self.mllm.tokenizer.padding_side
        if self.mllm.family.token_types is not None and side != "left":
            raise TrainingError(
                f"The tokenizer pads on the {side}, where GRPOTrainer pads prompts on the left and "
                "then takes token types as the processor padded them; set "
                "processor.tokenizer.padding_side = 'left'."
            )
        self._trainer = trainer
        return self

    def __call__(
        self,
        prompts: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One reward per completion, from one teacher-forced pass per training batch.

        Raises:
            TrainingError: If a trainer calls it that it is not bound to, or the dataset lacks
                ``boxes`` (or what the accuracy gate needs).
            LayoutError: If a prompt and its images do not fit.
        """
        trainer = self._trainer
        if trainer is None and "trainer_state" in columns:
            raise TrainingError("The region reward is bound to no trainer; call bind(trainer).")
        gate = ("answer", "candidates") if self.config.only_correct else ()
        rows = rows_of(columns, ("boxes", *gate), self.__name__)
        items = self._encoded(prompts, completion_ids)
        size = 16 if trainer is None else trainer.args.per_device_train_batch_size
        temperature = 1.0 if trainer is None else trainer.temperature
        weight = self.config.mass_weight
        with contextlib.nullcontext() if trainer is None else trainer.accelerator.autocast():
            self.seen = region_attention(
                self.mllm,
                items,
                [row["boxes"] or () for row in rows],
                self.config,
                temperature=temperature,
                batch_size=size,
            )
        reasons = [
            one.missing or (_WRONG if gate and not is_right(self.mllm, ids, row) else None)
            for one, ids, row in zip(self.seen, completion_ids, rows, strict=True)
        ]
        self._note(reasons, log_metric)
        return [
            None if reason or one.reward is None else one.reward + weight * one.visual_mass
            for one, reason in zip(self.seen, reasons, strict=True)
        ]

    def _encoded(
        self, prompts: Sequence[Any], completion_ids: Sequence[Sequence[int]]
    ) -> list[Encoded]:
        """Prompts with completions; each prompt is processed once, however often it comes."""
        options: dict[str, Any] = {}
        if self._trainer is not None:
            options = {
                "chat_template": self._trainer.chat_template,
                **self._trainer.chat_template_kwargs,
            }
        bare: dict[tuple[object, ...], Encoded] = {}
        items = []
        mllm = replace(self.mllm, cache=PromptCache())
        for prompt, ids in zip(prompts, completion_ids, strict=True):
            if isinstance(prompt, str):
                raise TrainingError(
                    "The region reward needs conversational prompts, a list of messages, as "
                    "GRPOTrainer does for pictures."
                )
            text = mllm.processor.apply_chat_template(
                prompt, tokenize=False, add_generation_prompt=True, **options
            )
            pictures = pictures_of(prompt)
            if self.config.region == "step":
                items.append(encode_prompt(mllm, text, pictures, response=list(ids)))
                continue
            key = (text, *map(picture_key, pictures))
            if key not in bare:
                bare[key] = encode_prompt(mllm, text, pictures)
            items.append(continued(bare[key], ids))
        return items

    def _note(self, reasons: Sequence[str | None], log_metric: LogMetric | None) -> None:
        own = Counter(reason for reason in reasons if reason is not None)
        self.counts.update(own)
        if log_metric is None or not reasons:
            return
        log_metric("region/none", own.total() / len(reasons))
        for name in (*get_args(Missing), _WRONG):
            log_metric(f"region/none/{name}", own[name] / len(reasons))
        there = [one for one in self.seen if one.missing is None]
        if there:
            log_metric("region/ratio", float(np.mean([one.ratio for one in there])))
            log_metric("region/visual_mass", float(np.mean([one.visual_mass for one in there])))
            log_metric("region/box_mass", float(np.mean([one.box_mass for one in there])))


def is_right(mllm: Mllm, completion_ids: Sequence[int], row: Mapping[str, Any]) -> bool:
    """Whether a completion states the right answer: a score of at least 0.5.

    Args:
        mllm: The model that wrote it.
        completion_ids: Its tokens, end token included if it has one.
        row: With ``answer``, ``candidates`` and maybe ``question``, ``scoring``, ``references`` and
            ``tolerance``.
    """
    return _score(mllm, completion_ids, row) >= RIGHT


def _score(mllm: Mllm, completion_ids: Sequence[int], row: Mapping[str, Any]) -> float:
    parsed = mllm.parse(completion_ids)
    finished = any(token in mllm.stop_ids for token in completion_ids)
    question, right = str(row.get("question") or ""), row["answer"]
    candidates = tuple(row["candidates"])
    stated = (choice_text if candidates else stated_answer)(parsed, finished=finished)
    if stated is None:
        return 0.0
    if candidates:
        shown = mllm.format.question(question, candidates)
        return float(match_answer(stated, candidates, question=shown) == right)
    found = score_open(
        stated,
        [right],
        scoring=row.get("scoring") or "exact",
        references=row.get("references") or (),
        tolerance=row.get("tolerance") or 0.0,
        question=question,
    )
    return found.scores[right]
