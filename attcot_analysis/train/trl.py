"""Att-CoT in TRL's `SFTTrainer`, on its prompt-completion data for vision-language models.

Rows of the dataset are TRL's own (``prompt``, ``completion``, ``images`` or ``image``) with up to
three columns more: ``candidates`` and ``answer`` for the commitment term, and ``boxes``, per
rationale step a list of pixel boxes, for the visual term on evidence::

    trainer = AttCoTSFTTrainer(
        model=mllm.model,
        processing_class=mllm.processor,
        args=SFTConfig(max_length=None, remove_unused_columns=False, ...),
        train_dataset=dataset,
        mllm=mllm,
        attcot=AttCoTConfig.reconstruction(),
    )
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attcot_analysis.attention.packing import CandidateTokens, candidate_tokens
from attcot_analysis.errors import TrainingError
from attcot_analysis.models import Encoded, Mllm, build_messages, encode_prompt
from attcot_analysis.problems import Problem, render_response
from attcot_analysis.problems.response import is_open, without_opening
from attcot_analysis.train.data import Example, collate_examples, step_weights
from attcot_analysis.train.objective import AttCoTConfig
from attcot_analysis.train.trainer import AttCoTMixin

# isort: split
# After our models package, which makes torchvision importable.
from trl import SFTTrainer
from trl.data_utils import apply_chat_template, is_conversational, prepare_multimodal_messages


@dataclass(frozen=True, eq=False)
class CotCollator:
    """Batches prompt-completion rows as TRL does, and adds what the Att-CoT terms need of them.

    Attributes:
        mllm: The model whose processor is used.
    """

    mllm: Mllm
    _known: dict[tuple[str, ...], CandidateTokens] = field(default_factory=dict, repr=False)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate.

        Raises:
            TrainingError: If a row lacks a column that it needs.
            LayoutError: If a prompt and its images do not fit.
        """
        return collate_examples(self.mllm, [self.example(row, at) for at, row in enumerate(rows)])

    def example(self, row: Mapping[str, Any], at: int) -> Example:
        """One row as an example; `at` names it in errors if it has no ``id``."""
        name = str(row.get("id", f"number {at}"))
        encoded = self._encode(row, name)
        candidates = tuple(row.get("candidates") or ())
        answer = row.get("answer")
        if not candidates or answer not in candidates:
            raise TrainingError(
                f"Row {name}: its answer {answer!r} is not among its candidates "
                f"{list(candidates)}; give both columns for the commitment term."
            )
        if candidates not in self._known:
            self._known[candidates] = candidate_tokens(self.mllm, candidates)
        boxes = row.get("boxes") or ()
        n_steps = len(encoded.layout.steps)
        per_step = [boxes[step] if step < len(boxes) else () for step in range(n_steps)]
        return Example(
            name=name,
            encoded=encoded,
            candidates=self._known[candidates],
            answer=candidates.index(answer),
            evidence=step_weights(encoded, per_step),
        )

    def _encode(self, row: Mapping[str, Any], name: str) -> Encoded:
        missing = {"prompt", "completion"} - set(row)
        if missing:
            raise TrainingError(
                f"Row {name} lacks {', '.join(sorted(missing))}; Att-CoT takes TRL's "
                "prompt-completion form, with the rationale and answer as the completion."
            )
        images = [row["image"]] if row.get("image") is not None else list(row.get("images") or ())
        texts: Mapping[str, Any] = row
        if is_conversational(dict(row)):
            texts = apply_chat_template(
                {
                    "prompt": prepare_multimodal_messages(row["prompt"], images=images),
                    "completion": prepare_multimodal_messages(row["completion"]),
                },
                self.mllm.processor,
            )
        return encode_prompt(self.mllm, texts["prompt"], images, response=texts["completion"])


class AttCoTSFTTrainer(AttCoTMixin, SFTTrainer):
    """`trl.SFTTrainer` with the Att-CoT terms; with both weights 0 it is `SFTTrainer`, exactly."""

    def __init__(
        self,
        *args: Any,
        mllm: Mllm,
        attcot: AttCoTConfig | None = None,
        data_collator: Any = None,
        **kwargs: Any,
    ) -> None:
        """Use `CotCollator`, unless another collator is given or no term has a weight."""
        if data_collator is None and attcot is not None and attcot.active:
            data_collator = CotCollator(mllm)
        super().__init__(*args, mllm=mllm, attcot=attcot, data_collator=data_collator, **kwargs)


def prompt_completion_rows(mllm: Mllm, problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Problems as rows for TRL, with the columns that `CotCollator` reads.

    Args:
        mllm: The model whose prompts and end token are used.
        problems: Items with rationale steps.
    """
    rows = []
    for problem in problems:
        prompt = mllm.processor.apply_chat_template(
            build_messages(problem.question), tokenize=False, add_generation_prompt=True
        )
        response = render_response(problem.steps, problem.answer)
        if is_open(prompt):
            response = without_opening(response)
        rows.append(
            {
                "id": problem.id,
                "prompt": prompt,
                "completion": response + mllm.tokenizer.eos_token,
                "images": [problem.image],
                "candidates": list(problem.candidates),
                "answer": problem.answer,
                "boxes": [
                    [list(box) for box in problem.step_boxes(number)]
                    for number in range(1, len(problem.steps) + 1)
                ],
            }
        )
    return rows
