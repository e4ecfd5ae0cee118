"""Training examples: encoded problems, their labels, and what the Att-CoT terms need of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from attcot_analysis.attention.packing import CandidateTokens, candidate_tokens
from attcot_analysis.errors import TrainingError
from attcot_analysis.measures.access import step_evidence
from attcot_analysis.models import Encoded, Mllm, Mode, collate, encode_problem, read_image
from attcot_analysis.problems import Box, Problem
from attcot_analysis.problems.pictures import StoredPicture, is_plain

IGNORED = -100
"""Label of tokens the cross-entropy leaves out."""
KEPT_BYTES = 2**28
"""Bytes of processed pictures that a `RationaleDataset` keeps."""


@dataclass(frozen=True, eq=False)
class Example:
    """One training example.

    Attributes:
        name: The problem's id.
        encoded: Prompt and response, end token included.
        candidates: The problem's candidates as tokens; ``None`` for an open question.
        answer: Index of the right one; -1 for an open question.
        evidence: Per step ``(n_image_tokens,)``, the share of each image token that the step's
            evidence boxes cover; ``None`` for steps without boxes.
    """

    name: str
    encoded: Encoded
    candidates: CandidateTokens | None
    answer: int
    evidence: tuple[Tensor | None, ...]


class RationaleDataset(Dataset[Example]):
    """Problems as examples of their own rationale (``mode="cot"``) or direct answer.

    Examples are encoded when first asked for and kept for the next epoch while all that are kept
    stay below `KEPT_BYTES`.

    Raises:
        TrainingError: If there are no problems, or one has no rationale to learn.
    """

    def __init__(self, mllm: Mllm, problems: Sequence[Problem], *, mode: Mode = "cot") -> None:
        """Check the problems; they are encoded when asked for."""
        if not problems:
            raise TrainingError("There are no problems to train on; give at least one.")
        bare = [problem.id for problem in problems if not problem.steps]
        if mode == "cot" and bare:
            raise TrainingError(
                f"{len(bare)} of {len(problems)} problems have no rationale steps (first: "
                f"{bare[0]}); give them steps or train with mode='direct'."
            )
        self._mllm = mllm
        self._problems = problems
        self._mode: Mode = mode
        self._tokens: dict[tuple[str, ...], CandidateTokens] = {}
        self._kept: dict[int, Example] = {}
        self._room = KEPT_BYTES

    def __len__(self) -> int:
        """Number of problems."""
        return len(self._problems)

    def __getitem__(self, index: int) -> Example:
        """One problem's example."""
        if index in self._kept:
            return self._kept[index]
        example = self._encode(index)
        size = sum(tensor.nbytes for tensor in example.encoded.vision.values())
        if size <= self._room:
            self._kept[index] = example
            self._room -= size
        return example

    def _encode(self, index: int) -> Example:
        problem, encoded = self._problems[index], self._encoded(index)
        candidates, answer = self._candidates(problem)
        evidence = step_evidence(problem, encoded)
        return Example(
            name=problem.id,
            encoded=encoded,
            candidates=candidates,
            answer=answer,
            evidence=tuple(None if one is None else torch.tensor(one).float() for one in evidence),
        )

    def _encoded(self, index: int) -> Encoded:
        """Prompt and response of an example; what other data than the problems' own replaces."""
        problem = self._problems[index]
        return encode_problem(
            self._mllm, problem, mode=self._mode, response=self._response(problem), end=True
        )

    def _response(self, problem: Problem) -> str:
        return self._mllm.format.right_response(problem, self._mode)

    def _candidates(self, problem: Problem) -> tuple[CandidateTokens | None, int]:
        """The candidates' tokens and the place of the right one."""
        names = problem.candidates
        if not names:
            return None, -1
        if names not in self._tokens:
            self._tokens[names] = candidate_tokens(self._mllm, names)
        return self._tokens[names], names.index(problem.answer)


def forced_candidates(examples: Sequence[Example]) -> list[CandidateTokens]:
    """The candidates of every example, for what forces an answer.

    Raises:
        TrainingError: If one is an open question.
    """
    candidates = []
    for example in examples:
        if example.candidates is None:
            raise TrainingError(
                f"Item {example.name} is an open question, so no answer can be forced on it; give "
                "it candidates, or train without the commitment term (lambda_commit=0)."
            )
        candidates.append(example.candidates)
    return candidates


def lazy_rows(rows: list[dict[str, Any]], problems: Sequence[Problem]) -> Any:
    """Rows for TRL with the problems' pictures in a column ``images``, decoded at each look.

    A file that every reader sees alike stays where it is; any other picture is kept as a PNG of
    what is shown.

    Args:
        rows: One per problem.
        problems: The problems.

    Returns:
        A `datasets.Dataset`, as trainers take it.
    """
    from datasets import Dataset, Image, Sequence

    image = Image(mode="RGB")

    def kept(held: Any) -> dict[str, Any]:
        if isinstance(held, StoredPicture) and is_plain(held.file):
            return {"bytes": None, "path": str(held.file.absolute())}
        # A copy has no name, by which the package would read the file itself.
        return dict(image.encode_example(read_image(held).copy()))

    pictures = [[kept(one) for one in problem.held] for problem in problems]
    found = Dataset.from_list(rows)
    return found.add_column("images", pictures, feature=Sequence(image)) if rows else found


def step_weights(encoded: Encoded, boxes: Sequence[Sequence[Box]]) -> tuple[Tensor | None, ...]:
    """Per step `evidence_weights`; ``None`` without boxes, or where the model sees none of them."""
    weights = [evidence_weights(encoded, own) if own else None for own in boxes]
    return tuple(None if one is None or not one.any() else one for one in weights)


def evidence_weights(encoded: Encoded, boxes: Sequence[Box]) -> Tensor:
    """How far boxes cover each image token, ``(n_image_tokens,)`` in [0, 1].

    Raises:
        TrainingError: If the prompt has not exactly one image.
    """
    grids = encoded.layout.grids
    if len(grids) != 1:
        raise TrainingError(
            f"Evidence boxes need exactly one image per problem; this one has {len(grids)}."
        )
    return torch.as_tensor(grids[0].coverage(boxes), dtype=torch.float32)


@dataclass(frozen=True)
class RationaleCollator:
    """Batches examples: model inputs, ``labels`` on the response only, and the examples.

    The examples travel under ``"attcot"`` for `attcot_analysis.train.trainer`, which takes them
    out again before the model sees the batch.
    """

    mllm: Mllm

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Collate."""
        return collate_examples(self.mllm, examples)


def collate_examples(mllm: Mllm, examples: Sequence[Example]) -> dict[str, Any]:
    """Model inputs, right-padded, on the CPU; ``labels``; and the examples as ``"attcot"``."""
    items = [example.encoded for example in examples]
    batch: dict[str, Any] = collate(mllm, items, device="cpu")
    labels = torch.full_like(batch["input_ids"], IGNORED)
    for row, item in enumerate(items):
        response = item.input_ids[item.prompt_length :]
        labels[row, item.prompt_length : item.prompt_length + len(response)] = response
    return {**batch, "labels": labels, "attcot": list(examples)}


def probe_rows(
    examples: Sequence[Example], *, evidence: bool = False, question: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The rows of a batch that L_vis counts, and the key group each is measured on.

    Args:
        examples: The batch, right-padded in the same order.
        evidence: Whether each step is measured on its own evidence boxes instead of the image.
        question: Whether the rows are those of the question's tokens instead of the rationale's.

    Returns:
        ``rows (B, R)`` long, padded with -1; ``groups (B, R)`` long, the column a row belongs
        to; ``cols (B, T, C)`` float, the key groups (image, or one per step).
    """
    length = max(example.encoded.layout.n_tokens for example in examples)
    per_item = []
    columns = max(len(example.evidence) for example in examples) if evidence else 1
    cols = torch.zeros(len(examples), length, max(columns, 1))
    for at, example in enumerate(examples):
        layout = example.encoded.layout
        image = torch.as_tensor(layout.image, dtype=torch.long)
        if not evidence:
            cols[at, image, 0] = 1.0
        if question:
            own = torch.as_tensor(layout.question, dtype=torch.long)
            per_item.append((own, torch.zeros_like(own)))
            continue
        rows, groups = [], []
        for number, span in enumerate(layout.steps):
            if evidence:
                covered = example.evidence[number]
                if covered is None:
                    continue
                cols[at, image, number] = covered
            own = torch.as_tensor(layout.rows(span), dtype=torch.long)
            rows.append(own)
            groups.append(torch.full_like(own, number if evidence else 0))
        empty = torch.zeros(0, dtype=torch.long)
        per_item.append((torch.cat([empty, *rows]), torch.cat([empty, *groups])))
    pad = torch.nn.utils.rnn.pad_sequence
    rows_padded = pad([rows for rows, _ in per_item], batch_first=True, padding_value=-1)
    groups_padded = pad([groups for _, groups in per_item], batch_first=True, padding_value=0)
    return rows_padded, groups_padded, cols
