"""VISTA's settings and sets: kept positives, pairs and yields of one round's table of responses.

Nothing here asks a model, so a stored round can be filtered again with other settings.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from attcot_analysis.errors import TrainingError
from attcot_analysis.stats.intervals import bootstrap_mean
from attcot_analysis.train.settings import Count, Positive, Weight, check_settings
from attcot_lab.settings import read_settings

Objective = Literal["sft", "dpo"]
Extra = Literal["prefix", "plain", "none"]
Origin = Literal["sampled", "continued", "plain"]


@dataclass(frozen=True)
class VistaConfig:
    """How VISTA draws, filters and trains (arXiv 2605.11931).

    The defaults are the paper's where a summary of it that is public to us names them: K, J, T,
    temperature, top, tau, beta and nll. All else is a reconstruction.

    Attributes:
        objective: ``"sft"`` on kept positives, or ``"dpo"`` on pairs with random negatives.
        rounds: T; each trains the base anew on what the round before's model wrote.
        samples: K responses per question.
        extra: What is drawn beside them and trained on: ``"prefix"`` (continuations of mended
            prefixes of wrong responses), ``"plain"`` (as many more plain samples of the same
            questions) or ``"none"``.
        control: Also draw the other one of ``"prefix"`` and ``"plain"``, not to train on it but
            to compare what they yield at an equal number of samples.
        continuations: J per wrong response.
        top: A token of a wrong response is critical if at least so many are more probable behind
            the reordered prompt.
        temperature: Of all samples.
        max_new_tokens: Length limit of a response, and of what continues a prefix.
        vas: Whether positives are filtered by their vision-aware attention score.
        tau: Positives with a score below it are dropped.
        layer: Whose attention is scored; ``None`` for the middle one.
        beta: Of DPO.
        nll: Weight of the chosen responses' likelihood beside DPO.
        learning_rate: Instead of the fine-tuning's, whose rate is made for cross-entropy.
        batch_size: Sequences per generation or forward pass.
        block: Questions drawn between two writings to the disk.
        keep_models: Keep the models of all rounds, not only the last one's.

    Raises:
        TrainingError: If a value is unknown or out of range.
    """

    objective: Objective = "sft"
    rounds: Count = 3
    samples: Count = 10
    extra: Extra = "prefix"
    control: bool = False
    continuations: Count = 3
    top: Count = 5
    temperature: Positive = 1.0
    max_new_tokens: Count = 256
    vas: bool = True
    tau: float = -0.5
    layer: int | None = None
    beta: Positive = 0.1
    nll: Weight = 0.5
    learning_rate: Positive | None = None
    batch_size: Count = 64
    block: Count = 32
    keep_models: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        check_settings(self)

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Which responses are trained on."""
        more: dict[Extra, tuple[Origin, ...]] = {
            "prefix": ("continued",),
            "plain": ("plain",),
            "none": (),
        }
        return ("sampled", *more[self.extra])

    @property
    def drawn(self) -> tuple[Origin, ...]:
        """Which responses are drawn, those for comparison included."""
        both: tuple[Origin, ...] = ("sampled", "continued", "plain")
        return both if self.control and self.extra != "none" else self.origins


OPTIONS = tuple(one.name for one in fields(VistaConfig))
"""What an arm of the recipe ``vista`` can set."""


def vista_config(options: Mapping[str, Any]) -> VistaConfig:
    """The settings from an arm's options.

    Raises:
        TrainingError: If one is unknown, of a wrong type, or out of range.
    """
    return read_settings(VistaConfig, options)


YIELDS = ("success", "draw", "value", "low", "high", "n", "responses", "tokens")
"""Columns of the table of yields."""
ROUNDING = 1e-5
"""Shares that differ by less do not differ: kernels round, and z-scores would blow it up."""
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class VistaRound:
    """What one round has drawn.

    Attributes:
        responses: See `attcot_lab.vista.draw.sample_responses`, with ``number`` (of the response
            to its item, from 0) and, of positives, ``system``, ``image``, ``instruction`` and
            ``share`` (see `attcot_lab.vista.draw.attention_shares`).
        critical: See `attcot_lab.vista.prefix.critical_tokens`, with ``item`` and ``number``.
    """

    responses: pd.DataFrame
    critical: pd.DataFrame

    def column(self, name: str) -> dict[tuple[str, int], Any]:
        """One column of the responses, by item and number."""
        table = self.responses
        keys = zip(table["item"], table["number"], strict=True)
        return dict(zip(keys, table[name], strict=True))

    def positives(self, config: VistaConfig) -> pd.DataFrame:
        """Score the distinct positives of every question and say which are trained on.

        Args:
            config: Which origins count, whether scores do, and the threshold.

        Returns:
            ``item``, ``number``, ``origin``, ``share``, ``vas`` and ``kept``, in the order of the
            responses. Questions without a positive have no rows. A score that is missing drops.

        Source: arXiv 2605.11931; that scores compare positives only, each once, is a
        reconstruction.
        """
        used = self.responses[self.responses["origin"].isin(config.origins)]
        right = distinct(used[is_positive(used)])
        right = right[["item", "number", "origin", "share"]].reset_index(drop=True)
        vas = vision_scores(right["share"].to_numpy(np.float64), right["item"].tolist())
        kept = vas >= config.tau if config.vas else np.ones(len(right), dtype=bool)
        return right.assign(vas=vas, kept=kept)

    def pairs(
        self, config: VistaConfig, *, seed: int = 0, selected: pd.DataFrame | None = None
    ) -> pd.DataFrame:
        """Pair every kept positive with a wrong response to the same question, drawn at random.

        Args:
            config: Which origins count.
            seed: Of the draw.
            selected: From `positives`; default those of `config`.

        Returns:
            ``item``, ``chosen`` and ``rejected``, numbers of responses. Questions without a wrong
            response, which have nothing to be preferred to, have no rows.

        Source: arXiv 2605.11931; that negatives are distinct, and that those of all origins that
        count are drawn from, is a reconstruction.
        """
        selected = self.positives(config) if selected is None else selected
        used = self.responses[self.responses["origin"].isin(config.origins)]
        wrong = distinct(used[~used["correct"] & (used["ids"].map(len) > 0)])
        by_item = wrong.groupby("item", sort=False)["number"]
        numbers = {item: own.to_numpy() for item, own in by_item}
        rng = np.random.default_rng([seed, len(selected)])
        kept = selected[selected["kept"]]
        rows = [
            (item, int(number), int(rng.choice(numbers[item])))
            for item, number in zip(kept["item"], kept["number"], strict=True)
            if item in numbers
        ]
        return pd.DataFrame(rows, columns=["item", "chosen", "rejected"])

    def gains(self) -> pd.DataFrame:
        """Question by question, whether a draw has a success.

        A question is hard if none of its first K samples is a success. With as many candidates as
        the testbed's questions have, some right answers come by chance, hence two kinds of
        success: ``"answer"``, a positive; ``"rationale"``, a positive whose rationale is the
        problem's own, word for word (only on problems that have one).

        Returns:
            ``success``; ``draw``: ``"sampled"``, and ``"continued"`` and ``"plain"`` as far as
            they were drawn; ``item``, for ``"sampled"`` every question, for others the hard ones;
            ``value``, 1 or 0.

        Raises:
            TrainingError: If there are no responses.
        """
        parts = [
            pd.DataFrame(
                {"success": success, "draw": draw, "item": values.index, "value": values.array}
            )
            for success, table in self._successes()
            for draw, values in _gained(table).items()
        ]
        return pd.concat(parts, ignore_index=True)

    def yields(self, *, level: float = 0.95) -> pd.DataFrame:
        """How many hard questions gained a success by further draws, at equally many samples.

        Args:
            level: Of the intervals.

        Returns:
            Per success and draw, as in `gains`: ``value``, the share of questions with a success
            among the responses of that draw; of hard ones, but for ``"sampled"``. With both
            further draws also ``"continued - plain"``, paired by question. ``low``, ``high``,
            ``n`` (questions), ``responses`` and ``tokens`` (drawn for these questions; tokens of
            prefixes not counted).

        Raises:
            TrainingError: If there are no responses.
        """
        rows = []
        for success, table in self._successes():
            draws = _gained(table)
            if {"continued", "plain"} <= draws.keys():
                draws["continued - plain"] = draws["continued"] - draws["plain"]
            for draw, values in draws.items():
                own = table[(table["origin"] == draw) & table["item"].isin(values.index)]
                mean = bootstrap_mean(values.to_numpy(np.float64), level=level)
                counts = (mean.n, len(own), int(own["tokens"].sum()))
                rows.append((success, draw, mean.value, mean.low, mean.high, *counts))
        return pd.DataFrame(rows, columns=list(YIELDS))

    def _successes(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """Per kind of success the responses that can have it, with whether they do."""
        responses = self.responses
        if not len(responses):
            raise TrainingError("There are no responses to count; draw some first.")
        right = is_positive(responses)
        tokens = responses["ids"].map(len) - responses["kept"]
        yield "answer", responses.assign(success=right, tokens=tokens)
        sound = right & responses["sound"].fillna(False).astype(bool)
        table = responses.assign(success=sound, tokens=tokens)
        yield "rationale", table[responses["sound"].notna()]


def _gained(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Which questions the first samples solve, and what each further draw gains of the others."""
    first = table[table["origin"] == "sampled"]
    solved = first.groupby("item", sort=False)["success"].any()
    hard = solved.index[~solved.to_numpy(bool)]
    gained = {"sampled": solved.astype(float)}
    for origin in ("continued", "plain"):
        own = table[table["origin"] == origin]
        if len(own):
            any_of = own[own["item"].isin(hard)].groupby("item", sort=False)["success"].any()
            gained[origin] = any_of.reindex(hard, fill_value=False).astype(float)
    return gained


def is_positive(responses: pd.DataFrame) -> pd.Series:
    """Which responses give the right answer and come to their end.

    One that was cut off after its right answer is neither positive nor negative: it would teach
    never to end, or not to give the right answer.
    """
    return responses["correct"] & responses["finished"]


def distinct(responses: pd.DataFrame) -> pd.DataFrame:
    """The first of all responses to an item that are the same, token for token."""
    keys = responses["item"].astype(str) + " " + responses["ids"].map(lambda ids: repr(list(ids)))
    return responses[~keys.duplicated()]


def vision_scores(
    shares: Sequence[float] | FloatArray, questions: Sequence[Hashable]
) -> FloatArray:
    """VAS: by how many standard deviations a share lies above the mean of its question's.

    Args:
        shares: ``(N,)`` S of each response.
        questions: ``(N,)`` what each response answers.

    Returns:
        ``(N,)``, with the standard deviation of the question's responses themselves (divided by
        n). Where there is only one, or all differ by less than `ROUNDING`, there is nothing to
        tell them apart by and the score is 0. NaN where the share is NaN, which counts in no
        mean. Of two that differ the lower one has -1, by however little.

    Raises:
        TrainingError: If the numbers of shares and questions differ.

    Source: arXiv 2605.11931; divisor and equal shares are a reconstruction.
    """
    values = np.asarray(shares, dtype=np.float64)
    if values.shape != (len(questions),):
        raise TrainingError(
            f"{values.size} shares came with {len(questions)} questions; give one each."
        )
    scores = np.full(len(values), np.nan)
    codes, names = pd.factorize(pd.Series(list(questions), dtype=object))
    for code in range(len(names)):
        own = (codes == code) & ~np.isnan(values)
        if own.any():
            centred = values[own] - values[own].mean()
            spread = float(np.ptp(values[own]))
            scores[own] = centred / centred.std() if spread >= ROUNDING else 0.0
    # Of every pair the scores are -1 and 1; in the last bit they would rank pairs by chance.
    return scores.round(9)
