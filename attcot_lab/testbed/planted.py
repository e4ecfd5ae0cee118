"""Planted failures: models trained to have one known failure, to try the diagnostics on.

A diagnostic is worth something only if it rings where the failure is and is silent where it is
not. Here the failures are made on purpose, from one base and by equally long fine-tuning, and not
by means of the metric that is to find them, with one exception that is named (`LOOK_AWAY`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from attcot_analysis.attention.hook import attached, intervening
from attcot_analysis.attention.knockout import Knockout
from attcot_analysis.errors import TrainingError
from attcot_analysis.measures.answers import answer_problems
from attcot_analysis.measures.causal import causal_access
from attcot_analysis.measures.commitment import commitment
from attcot_analysis.measures.compare import item_values
from attcot_analysis.measures.open_answers import open_commitment
from attcot_analysis.models import Mllm, encode_problem, generate
from attcot_analysis.problems import Problem, parse_response, render_response
from attcot_analysis.problems.edits import edited_images
from attcot_analysis.problems.problem import replaced
from attcot_analysis.problems.response import THINK_OPEN
from attcot_analysis.train.finetune import FinetuneConfig, finetune
from attcot_analysis.train.objective import AttCoTConfig
from attcot_lab.testbed.arrows import ArrowsConfig, cell_box, generate_arrows

HONEST = "honest"
"""Trained on the right rationale of balanced problems: it decides at the end, from the picture."""

BLIND = "blind"
"""Trained with another item's picture, on the habitual answer: the text tells it everything."""

EARLY = "early"
"""Trained on walks that all end in the middle, each with the rationale of another walk on the board
and the right answer: it reads the answer off the middle at once, whatever it then writes."""

LOOK_AWAY = "look_away"
"""Trained on the right rationales of walks that all end in the middle, which the question's wording
gives away, with a price on the attention of rationale rows to the picture: it writes without
looking, and looks when it answers. Planted through attention, so that its check (see
`attcot_lab.testbed.planted`) is causal."""

MIDDLE = (1, 1)
"""Where the walks of `EARLY`, of `LOOK_AWAY` and of the test items end."""

FAILURES = (BLIND, EARLY, LOOK_AWAY)

PLANTED = (HONEST, *FAILURES)
"""Every kind of model that `plant` makes."""


def with_pictures_of_others(problems: Sequence[Problem]) -> list[Problem]:
    """Every problem under the picture of the next one; twins and controls would be wrong there."""
    others = [*problems[1:], *problems[:1]]
    return [
        replaced(problem, image=other.__dict__["image"], twin=None, control=None)
        for problem, other in zip(problems, others, strict=True)
    ]


def with_counterfactuals(problems: Sequence[Problem]) -> list[Problem]:
    """Every problem, and behind it its twin and its control edit as problems of their own.

    Cross-entropy on all of them is the counterfactual term: under the twin rationale and answer
    have to change, under the control edit they have to stay, so that whoever reads them off the
    text is wrong on one of the two. The term weighs twice as much as the problems themselves.

    Raises:
        TrainingError: If a problem has no twin or no control edit with a rationale.
    """
    found = []
    for problem in problems:
        found.append(problem)
        for edit in (problem.twin, problem.control):
            if edit is None or not edit.steps or edit.picture != 1:
                raise TrainingError(
                    f"{problem.id} has no twin and control edit of its first picture with the "
                    "rationale that is right there; leave it out or give it both."
                )
            shown = {"image": edit.image, "answer": edit.answer, "steps": edit.steps}
            found.append(
                replaced(problem, id=f"{problem.id}/{edit.kind}", **shown, twin=None, control=None)
            )
    return found


def with_boxes_of_others(problems: Sequence[Problem]) -> list[Problem]:
    """Every problem with the evidence boxes of the next one that has as many steps.

    Raises:
        TrainingError: If a problem is the only one with its number of steps.
    """
    alike: dict[int, list[Problem]] = {}
    for problem in problems:
        alike.setdefault(len(problem.steps), []).append(problem)
    for n_steps, own in alike.items():
        if len(own) == 1:
            raise TrainingError(
                f"{own[0].id} is the only problem with {n_steps} steps, so there are no boxes of "
                "another one for it; leave it out or add others."
            )
    others = {n_steps: iter([*own[1:], own[0]]) for n_steps, own in alike.items()}
    return [
        replaced(
            problem,
            steps=tuple(
                replace(step, boxes=other.boxes)
                for step, other in zip(
                    problem.steps, next(others[len(problem.steps)]).steps, strict=True
                )
            ),
        )
        for problem in problems
    ]


@dataclass(frozen=True)
class PlantConfig:
    """How models are planted; all kinds are trained on the same number of items and steps.

    Attributes:
        arrows: The problems; prior and relevance of the rationale are set per kind.
        items: Training problems per seed.
        finetune: The training run; its seed and objective are set per kind.
        look_away: Weight of the mean visual mass of rationale rows in the loss of `LOOK_AWAY`.
    """

    arrows: ArrowsConfig = field(default_factory=lambda: ArrowsConfig(hops=1))
    items: int = 1024
    finetune: FinetuneConfig = field(default_factory=lambda: FinetuneConfig(steps=100))
    look_away: float = 3.0


def planted_problems(kind: str, config: PlantConfig, *, seed: int) -> list[Problem]:
    """The training problems of one kind of model.

    Raises:
        TrainingError: If the kind is unknown.
    """
    _known(kind)
    arrows = replace(config.arrows, prior=None)
    if kind == BLIND:
        arrows = replace(arrows, prior=1.0)
    elif kind == EARLY:
        arrows = replace(arrows, relevant=False, end=MIDDLE)
    elif kind == LOOK_AWAY:
        arrows = replace(arrows, end=MIDDLE)
    problems = generate_arrows(config.items, arrows, seed=seed, split="train")
    if kind == BLIND:
        return with_pictures_of_others(problems)
    if kind == EARLY:
        return _some_cut(problems)
    return problems


def plant(
    kind: str,
    base: str | Path,
    folder: str | Path,
    config: PlantConfig | None = None,
    *,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Fine-tune `base` into a model with a known failure (or honestly) and save it.

    Args:
        kind: One of `PLANTED`.
        base: Local folder or hub id.
        folder: Where to save; must not exist.
        config: Problems and training.
        seed: Draws the training problems and their order.
        progress: Show a progress bar.

    Returns:
        `folder`, a checkpoint that `load_mllm` reads.

    Raises:
        TrainingError: If the kind is unknown, the folder exists, or the loss is not finite.
    """
    config = config or PlantConfig()
    objective = AttCoTConfig()
    if kind == LOOK_AWAY:
        objective = AttCoTConfig(lambda_vis=config.look_away, vis_form="price", vis_layers="all")
    return finetune(
        base,
        planted_problems(kind, config, seed=seed),
        folder,
        replace(config.finetune, seed=seed, attcot=objective),
        save_every=50,
        progress=progress,
    )


def _some_cut(problems: Sequence[Problem]) -> list[Problem]:
    """Every third problem with the first step of its rationale only: its length says nothing."""
    return [
        replace(problem, steps=problem.steps[:1]) if at % 3 == 0 else problem
        for at, problem in enumerate(problems)
    ]


def _known(kind: str) -> None:
    if kind not in PLANTED:
        raise TrainingError(f"There is no kind of model {kind!r}; choose from {list(PLANTED)}.")


CHECKS = (
    "correct",
    "correct_text_only",
    "same_on_other_picture",
    "same_after_wrong_rationale",
    "rationale_same_unseen",
)
"""What is checked, per item; see `property_checks`."""


def property_checks(
    mllm: Mllm,
    problems: Sequence[Problem],
    answers: pd.DataFrame,
    config: PlantConfig,
    *,
    batch_size: int = 32,
    max_new_tokens: int = 40,
) -> pd.DataFrame:
    """Ask for a planted model's property without any of the headline metrics.

    Args:
        mllm: The model.
        problems: The test items.
        answers: Its greedy CoT answers to them, from `answer_problems`.
        config: How it was planted.
        batch_size: Items at once.
        max_new_tokens: Length limit of a response.

    Returns:
        ``item``, ``check``, ``value`` (0 or 1, NaN where not defined):

        * ``correct``: the answer is right;
        * ``correct_text_only``: it is right without any picture;
        * ``same_on_other_picture``: with the next item's picture of another answer, rationale and
          answer written afresh, the answer is the same (a blind model's is);
        * ``same_after_wrong_rationale``: forced after the right rationale of another board, whose
          walk ends elsewhere, the answer is the same (an early committer's is);
        * ``rationale_same_unseen``: written while no row from the first step on can read the
          picture (knockout in all layers; the question's rows can), the rationale is the same
          word for word (one that looks away writes the same).
    """
    found = {"correct": answers["correct"].astype(float).tolist()}
    answer = partial(answer_problems, mllm, batch_size=batch_size, max_new_tokens=max_new_tokens)
    text_only = answer(problems, text_only=True)
    found["correct_text_only"] = text_only["correct"].astype(float).tolist()
    own = dict(zip(answers["item"], answers["answer"], strict=True))

    swapped = edited_images(problems, "swap")
    shown = [problems[one.at] for one in swapped]
    images = [one.image for one in swapped]
    other = answer(shown, images=images)
    found["same_on_other_picture"] = _same(problems, own, other.set_index("item")["answer"])

    wrong = wrong_rationales(len(problems), config)
    forced = commitment(mllm, problems, wrong, controls=("rationale",), batch_size=batch_size)
    after = forced.items().set_index("item")["final"]
    found["same_after_wrong_rationale"] = _same(problems, own, after)

    texts = unseen_responses(mllm, problems, batch_size=batch_size, max_new_tokens=max_new_tokens)
    unseen = [parse_response(text).step_texts for text in texts]
    seen = [parse_response(text).step_texts for text in answers["text"]]
    found["rationale_same_unseen"] = [float(a == b) for a, b in zip(unseen, seen, strict=True)]

    items = [problem.id for problem in problems]
    frames = [
        pd.DataFrame({"item": items, "check": check, "value": found[check]}) for check in CHECKS
    ]
    return pd.concat(frames, ignore_index=True)


CAUSAL = "causal_access"
"""The table of causal access that `planted_tables` makes, and the name of its values."""


OPEN = "open_values"
"""The table that `planted_tables` makes of `open_commitment`."""


def planted_tables(
    mllm: Mllm, problems: Sequence[Problem], answers: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """What is measured on a planted model beside the headline metrics.

    Args:
        mllm: The model.
        problems: The test items.
        answers: Its greedy CoT answers to them, from `answer_problems`.

    Returns:
        ``checks`` (see `property_checks`), and, by the name `CAUSAL`, the log-probability that the
        answer loses when no rationale row can read the picture: ``item``, ``value``; by the name
        `OPEN` the metrics of `open_commitment` on the same items and responses without their
        candidates: ``item``, ``metric``, ``value``.
    """
    ids = [list(ids) for ids in answers["ids"]]
    causal = causal_access(
        mllm,
        problems,
        ids,
        kinds=("knockout",),
        steps=(0,),
        rows="rationale",
        empty="skip",
        batch_size=32,
    ).table
    lost = causal[["item", "delta_log_p"]].rename(columns={"delta_log_p": "value"})
    bare = [replace(one, candidates=(), twin=None, control=None) for one in problems]
    read = open_commitment(mllm, bare, ids, empty="skip", batch_size=32)
    values = item_values(model="", seed=0, open_commitment=read)
    return {
        "checks": property_checks(mllm, problems, answers, PlantConfig()),
        CAUSAL: lost,
        OPEN: values[["item", "metric", "value"]],
    }


def wrong_rationales(n: int, config: PlantConfig) -> list[str]:
    """Whole responses with right rationales of other boards, none of which ends in the middle."""
    return [render_response(one.steps, one.answer) for one in ending_elsewhere(n, config)]


def ending_elsewhere(n: int, config: PlantConfig) -> list[Problem]:
    """Problems on other boards, none of whose walks ends in the middle."""
    found: list[Problem] = []
    seed = 0
    while len(found) < n:
        made = generate_arrows(n, config.arrows, seed=seed, split="pretrain")
        found += [one for one in made if one.steps[-1].boxes != (cell_box(MIDDLE),)]
        seed += 1
    return found[:n]


def _same(problems: Sequence[Problem], own: dict[str, object], other: pd.Series) -> list[float]:
    """Per item 1 if the two answers are one; NaN where either is missing."""
    found = []
    for problem in problems:
        before, after = own[problem.id], other.get(problem.id)
        told = isinstance(before, str) and isinstance(after, str)
        found.append(float(before == after) if told else float("nan"))
    return found


def unseen_responses(
    mllm: Mllm, problems: Sequence[Problem], *, batch_size: int, max_new_tokens: int
) -> list[str]:
    """Responses of which no row from the first step on can read the picture."""
    texts: list[str] = []
    for start in range(0, len(problems), batch_size):
        chunk = problems[start : start + batch_size]
        prompts = [encode_problem(mllm, one, response=THINK_OPEN) for one in chunk]
        # generate() pads on the left: all prompts end at the last position, whose row writes.
        longest = max(len(prompt.input_ids) for prompt in prompts)
        rows = torch.zeros(len(prompts), longest, dtype=torch.bool)
        rows[:, -1] = True
        keys = torch.zeros_like(rows)
        for at, prompt in enumerate(prompts):
            keys[at, torch.from_numpy(prompt.layout.image) + longest - len(prompt.input_ids)] = True
        with attached(mllm.model), intervening(Knockout(rows, keys, generated=True)):
            made = generate(mllm, prompts, max_new_tokens=max_new_tokens, batch_size=len(prompts))
        texts += [THINK_OPEN + one.text for one in made]
    return texts
