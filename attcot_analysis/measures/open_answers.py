"""Commitment without candidates: how near the final answer is after every step."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from attcot_analysis.attention.continuations import (
    AnswerCue,
    Continuation,
    Reading,
    read_continuations,
)
from attcot_analysis.errors import MeasureError, NothingMeasuredError, check_known, check_numbers
from attcot_analysis.measures._items import Empty, Items, Response, Result, batches, paired
from attcot_analysis.measures.answers import read_answer
from attcot_analysis.measures.commitment import (
    PREMATURE,
    Axis,
    curve_area,
    curve_places,
    curve_rows,
    first_lasting,
    largest_jump,
    prefix_texts,
)
from attcot_analysis.measures.probed import check_max_steps, probed
from attcot_analysis.models import Encoded, Mllm, generate
from attcot_analysis.models.inputs import Shown
from attcot_analysis.problems import Problem
from attcot_analysis.problems.reading import states
from attcot_analysis.stats.intervals import bootstrap_mean

Quantity = Literal["p", "p_closed", "entropy", "entropy_answer", "same"]
"""What is read after every step; see `open_commitment`."""


class OpenCommitment(Result):
    """What `open_commitment` measured: three readings of how near the final answer is."""

    name = "open_commitment"
    title = "Commitment on open answers"
    columns = (
        "item",
        "step",
        "n_steps",
        "final",
        "read",
        "log_p",
        "n_tokens",
        "p",
        "log_p_closed",
        "n_closed",
        "p_closed",
        "entropy",
        "entropy_answer",
        "forced",
        "same",
        "leaked",
    )

    def items(self, *, answers: Mapping[str, str] | None = None) -> pd.DataFrame:
        """Reduce the table to one row per item.

        Args:
            answers: Right answers by item id where they are not the problems' own (pictures of
                twins).

        Returns:
            ``item``, ``n_steps``, ``final`` (the answer that the response states), ``correct``
            (it is read as the right one), and of the three readings

            * ``p0``, ``area``: p of the final answer at k = 0, and its area over k/K by the
              trapezoid rule (p_0 when K = 0); ``p0_closed``, ``area_closed``: the same with the
              closing tag; ``jump``, ``jump_step``, ``jump_position``: the largest increase of p
              by a single step, negative if every step lowers it, that step (1 to K, the first of
              equals), and over K; missing when K = 0;
            * ``entropy0``, ``entropy_area``: entropy at the first token of the forced answer, at
              k = 0 and its area (the negative of ConfLens' DACS); ``entropy_answer0``,
              ``entropy_answer_area``: of the mean over the forced answer's tokens;
            * ``same0``: the greedy forced answer at k = 0 is the final one; ``commitment_step``:
              the first k from which on it stays so, missing if it is not after the last step;
              ``commitment_position``: over K, 0 when K = 0; ``premature``: position ≤ 0.25;
              ``same_area``: area of 0 and 1; all missing where the final answer cannot be read;
            * ``leak_step``: first step up to which the rationale states the final answer; missing
              if never.

        Raises:
            MeasureError: If an item is not among the problems.
        """
        rows = []
        for item, part in self._parts.items():
            problem = self._problem(item)
            final = part["read"].iloc[0]
            steps = part["step"].to_numpy()
            n_steps = int(steps[-1])
            p = _numbers(part["p"])
            same = _numbers(part["same"])
            known = bool(np.isfinite(same).all())
            step = first_lasting(same == 1, steps) if known else np.nan
            position = step / max(n_steps, 1)
            jump, jump_step = largest_jump(p, steps)
            leaks = np.flatnonzero(part["leaked"])
            row: dict[str, object] = {
                "item": item,
                "n_steps": n_steps,
                "final": part["final"].iloc[0],
                "correct": final == (answers or {}).get(item, problem.answer),
                "p0": p[0],
                "area": curve_area(p, steps),
                "p0_closed": part["p_closed"].iloc[0],
                "area_closed": curve_area(_numbers(part["p_closed"]), steps),
                "jump": jump,
                "jump_step": jump_step,
                "jump_position": jump_step / max(n_steps, 1),
            }
            for name in ("entropy", "entropy_answer"):
                row[f"{name}0"] = part[name].iloc[0]
                row[f"{name}_area"] = curve_area(_numbers(part[name]), steps)
            row |= {
                "same0": same[0],
                "commitment_step": step,
                "commitment_position": position,
                "premature": np.nan if np.isnan(position) else float(position <= PREMATURE),
                "same_area": curve_area(same, steps),
                "leak_step": float(steps[leaks[0]]) if len(leaks) else np.nan,
            }
            rows.append(row)
        return pd.DataFrame(rows)

    def curve(
        self,
        which: Quantity = "p",
        *,
        axis: Axis = "auto",
        points: int = 11,
        n_boot: int = 2000,
        seed: int = 0,
        level: float = 0.95,
    ) -> pd.DataFrame:
        """Average one reading over items, with intervals, on one axis.

        Args:
            which: A column of the table; ``"same"`` without items whose final answer cannot be
                read.
            axis: As `Commitment.curve`.
            points: Points of the position axis, from 0 to 1.
            n_boot: Bootstrap resamples.
            seed: Seed of the bootstrap.
            level: Confidence level.

        Returns:
            One row per point: ``k`` or ``position``, ``value``, ``low``, ``high``, ``n`` (items).

        Raises:
            MeasureError: If ``which`` is unknown, or if ``axis="k"`` and items differ in K.
        """
        check_known(which, Quantity, f"There is no reading {which!r}")
        n_steps = {int(part["n_steps"].iloc[0]) for part in self._parts.values()}
        whole = all(len(part) - 1 in n_steps for part in self._parts.values())
        axis, places = curve_places(axis, n_steps, whole, points, "items")
        read = []
        for part in self._parts.values():
            values = _numbers(part[which])
            position = part["step"].to_numpy() / max(int(part["n_steps"].iloc[0]), 1)
            read.append(np.interp(places, position, values))
        means = [
            bootstrap_mean(column, n_boot=n_boot, seed=seed, level=level)
            for column in np.array(read).T
        ]
        rows = curve_rows(axis, places, means)
        return pd.DataFrame(rows, columns=[axis, "value", "low", "high", "n"])

    def describe(self) -> str:
        """Say in a paragraph what was left out, what could not be read, and what came out."""
        unread = sum(bool(part["same"].isna().any()) for part in self._parts.values())
        endless = int(self.table["forced"].isna().sum())
        first = []
        if unread:
            first.append(
                f"Of {unread} of {self.n} items the final answer cannot be read, so whether forced "
                "answers equal it is not known."
            )
        if endless:
            first.append(
                f"{endless} of {len(self.table)} forced answers did not end within the length "
                "limit and count as other than the final one."
            )
        left_out, title, rest = super().describe().partition(f"{self.title} of")
        return left_out + " ".join([*first, title]) + rest

    def _check(self) -> None:
        table = self.table.sort_values("step", kind="stable")
        self._parts = {str(item): part for item, part in table.groupby("item", sort=False)}
        for item, part in self._parts.items():
            n_steps = int(part["n_steps"].iloc[0])
            n_k = int(part["n_probed"].iloc[0]) if "n_probed" in part else n_steps + 1
            steps = part["step"].to_numpy()
            ends = (steps[0], steps[-1]) == (0, n_steps)
            if not ends or len(part) != n_k or len(set(steps)) != n_k:
                raise MeasureError(
                    f"Item {item}: the table does not hold each step from 0 to {n_steps} once"
                    f"{'' if n_k > n_steps else f' ({n_k} probed)'}; pass the rows of one run, and "
                    "all of them."
                )

    def _headline(self) -> dict[str, ArrayLike]:
        items = self.items()
        return {
            "p per token of the final answer before the first step": items["p0"],
            "entropy there (nats)": items["entropy0"],
            "forced answer there already the final one": items["same0"],
            "commitment position": items["commitment_position"],
        }


def open_commitment(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Response],
    *,
    images: Sequence[Shown] | None = None,
    max_new_tokens: int = 32,
    max_steps: int | None = None,
    empty: Empty = "error",
    batch_size: int = 16,
    progress: bool = False,
) -> OpenCommitment:
    """Force an answer after every step and hold it against the one that the response states.

    No candidates are needed, so open questions can be measured; items that have candidates can
    be, too, to hold the readings against those of `commitment`. Three readings of each forced
    answer: how probable the final answer is, how certain the model is whatever it would say, and
    whether it would say the final answer. None of them says *why* an answer is near: an easy item
    is decided early by right.

    Args:
        mllm: The model.
        problems: The items, open questions or not.
        responses: Per item the response, as token ids (what the model wrote) or as text.
        images: Other pictures to show instead of the items' own, e.g. of their twins.
        max_new_tokens: Length limit of a greedy forced answer; longer where the item's final
            answer is.
        max_steps: Force answers after at most so many steps; see `commitment`.
        empty: What to do with items that cannot be measured, because their response has no
            rationale step or states no answer: raise an error, or leave them out.
        batch_size: Items per forward pass, each with all its forced answers; forced answers
            generated at once.
        progress: Show a progress bar.

    Returns:
        A result whose table has one row per item and step: ``item``, ``step`` (0 to
        ``n_steps``), ``n_steps``, ``final`` (the answer as the response states it), ``read`` (what
        this is read as, see `answer_problems`; missing if it cannot be read);

        * ``log_p`` (nats) of ``final`` teacher-forced behind the rationale up to the step and the
          answer cue: of all tokens from the cue's last stable one (see below) to the end of its
          text. ``n_tokens`` of them overlap the text, and ``p`` = exp(log_p / n_tokens) is its
          probability per token. ``log_p_closed``, ``n_closed``, ``p_closed``: of all tokens up to
          the end of the closing tag, which tells ``1`` from ``12``, but whose sure tokens raise
          the mean;
        * ``entropy`` (nats, over the whole vocabulary) of the distribution of the first token
          behind the cue; ``entropy_answer``: mean over the tokens of the greedy forced answer,
          missing where that is empty;
        * ``forced``: the greedy answer, up to the closing tag; missing where it does not end
          within the length limit. ``same``: it is read as ``read``; missing where that is;
        * ``leaked``: the rationale up to this step states ``final`` as a word. With ``max_steps``
          also ``n_probed``, after how many steps an answer was forced.

        Tokenizers join the cue's end with what follows (``>No`` of ``<answer>No``). So all three
        begin behind the last token of the cue that no letter, digit or sign joins; where one more
        token is needed to end the cue, its log-probability and entropy are added to the first's.

    Raises:
        MeasureError: If a response has no rationale step or states no answer (``empty="error"``),
            or logits are not finite.

    Source: early answering: Lanham et al., arXiv 2307.13702; entropy of the next token at the
    forced answer: DACS of ConfLens, arXiv 2609.35074; probability per token and the mean over the
    forced answer: reconstruction.
    """
    check_numbers(max_new_tokens=max_new_tokens)
    check_max_steps(max_steps)
    cue = AnswerCue(mllm)
    found = paired(mllm, problems, responses, images=images, empty=empty, several=True)
    items = _forcible(found, cue, empty)
    frames = []
    for chunk in batches(items.places, batch_size, "open commitment", progress):
        encoded = [items.encode(at) for at in chunk]
        finals = [_stated(items, at) for at in chunk]
        names = [problems[at].id for at in chunk]
        asked = [
            _Asked(row, k) for row, item in enumerate(encoded) for k in probed(item, max_steps)
        ]
        own = _read(cue, encoded, {one: finals[one.row] for one in asked}, names)
        forced = _forced(cue, encoded, own, finals, max_new_tokens, batch_size)
        others = {
            one: said.text
            for one, said in forced.items()
            if said.text != finals[one.row] and _writes(cue, said.text)
        }
        as_final = {one: own[one] for one in asked if forced[one].text == finals[one.row]}
        read = {**as_final, **(_read(cue, encoded, others, names) if others else {})}
        for row, at in enumerate(chunk):
            steps = [one for one in asked if one.row == row]
            said = [forced[one] for one in steps]
            final = finals[row].strip()
            meant = read_answer(final, problems[at], mllm.format)
            texts = prefix_texts(mllm, encoded[row], [one.k for one in steps])
            rows = pd.DataFrame(
                {
                    "item": problems[at].id,
                    "step": [one.k for one in steps],
                    "n_steps": encoded[row].layout.n_steps,
                    "final": final,
                    "read": meant,
                    **_probabilities([own[one] for one in steps]),
                    **_entropies([own[one] for one in steps], [read.get(one) for one in steps]),
                    **_answers(mllm, problems[at], meant, said),
                    "leaked": [states(text, final) for text in texts],
                }
            )
            frames.append(rows if max_steps is None else rows.assign(n_probed=len(steps)))
    table = pd.concat(frames, ignore_index=True)
    return OpenCommitment(table, items.measured, skipped=items.skipped)


def _forcible(items: Items, cue: AnswerCue, empty: Empty) -> Items:
    """Those of them whose response states an answer that can be forced."""
    faults: dict[int, tuple[str, str]] = {}
    for at in items.places:
        text = _stated(items, at)
        try:
            if text.strip():
                cue.behind(text)
            else:
                fault = "its response states no answer; give it one in the model's format"
                faults[at] = fault, "no stated answer"
        except MeasureError as error:
            faults[at] = str(error).rstrip("."), "an answer that the tokenizer does not write"
    if not faults:
        return items
    if empty == "error":
        at, (fault, _) = next(iter(faults.items()))
        raise MeasureError(
            f"Item {items.problems[at].id}: {fault}, or pass empty='skip' to leave such items out."
        )
    kept = {at: one for at, one in items.parsed.items() if at not in faults}
    if not kept:
        raise NothingMeasuredError(
            "No response with a rationale states an answer that can be forced, so there is nothing "
            "to measure."
        )
    left = {why: tuple(ids) for why, ids in items.skipped.items()}
    for at, (_, why) in faults.items():
        left[why] = (*left.get(why, ()), items.problems[at].id)
    return replace(items, parsed=kept, skipped=left)


def _stated(items: Items, at: int) -> str:
    """The answer as it stands in the response, less white space of the cue; empty without one."""
    parsed, form = items.parsed[at], items.mllm.format
    if parsed.answer_range is None:
        return ""
    text = parsed.text[slice(*parsed.answer_range)]
    text = text.lstrip() if form.cue[-1].isspace() else text
    return text.rstrip() if form.close[0].isspace() else text


def _numbers(column: pd.Series) -> NDArray[np.float64]:
    return np.asarray(column.astype("Float64").to_numpy(float, na_value=np.nan), dtype=np.float64)


class _Asked(NamedTuple):
    """One forced answer: after step ``k`` of the item at place ``row`` of a batch."""

    row: int
    k: int


class _Said(NamedTuple):
    """A greedy forced answer, and whether it came to an end."""

    text: str
    ended: bool


_Reads = Mapping[_Asked, tuple[Continuation, Reading]]


def _place(encoded: Sequence[Encoded], one: _Asked) -> tuple[str, bool]:
    """What stands before the cue and may join it, and whether the response begins there."""
    item = encoded[one.row]
    cut = item.layout.cuts[one.k]
    return cut.rest, cut.stop == item.prompt_length


def _read(
    cue: AnswerCue,
    encoded: Sequence[Encoded],
    texts: Mapping[_Asked, str],
    names: Sequence[str],
) -> dict[_Asked, tuple[Continuation, Reading]]:
    """Teacher-force a text at each of these places, in one forward pass."""

    def places(own: Sequence[_Asked]) -> list[tuple[_Asked, str, bool]]:
        return [(one, *_place(encoded, one)) for one in own]

    rows = sorted({one.row for one in texts})
    asked = [[one for one in texts if one.row == row] for row in rows]
    forced = [
        [(one.k, cue.behind(texts[one], rest, first=first)) for one, rest, first in places(own)]
        for own in asked
    ]
    read = read_continuations(
        cue.mllm,
        [encoded[row] for row in rows],
        forced,
        names=[names[row] for row in rows],
    )
    return {
        one: (text, reading)
        for own, texts_of, readings in zip(asked, forced, read, strict=True)
        for one, (_, text), reading in zip(own, texts_of, readings, strict=True)
    }


def _forced(
    cue: AnswerCue,
    encoded: Sequence[Encoded],
    own: _Reads,
    finals: Sequence[str],
    max_new_tokens: int,
    batch_size: int,
) -> dict[_Asked, _Said]:
    """What is answered greedily at each place.

    Where every token of the final answer and its closing tag is the most probable one, that is the
    greedy answer, and nothing is generated.
    """
    wanted = [one for one, (_, reading) in own.items() if not reading.greedy.all()]
    places = [_place(encoded, one) for one in wanted]
    prompts = [
        _prompt(encoded[one.row], one.k, cue.stable(rest, first=first))
        for one, (rest, first) in zip(wanted, places, strict=True)
    ]
    # An item's own limit, whatever else is in its batch.
    limits = [max(max_new_tokens, len(own[one][0].tail)) for one in wanted]
    longest = max(limits, default=max_new_tokens)
    made = generate(cue.mllm, prompts, max_new_tokens=longest, batch_size=batch_size)
    found = {one: _Said(finals[one.row], ended=True) for one in own}
    for one, (rest, first), limit, generation in zip(wanted, places, limits, made, strict=True):
        text, closed = cue.said(generation.ids[:limit], rest, first=first)
        finished = generation.finished and len(generation.ids) < limit
        found[one] = _Said(text, closed or finished)
    return found


def _prompt(item: Encoded, k: int, cue: Sequence[int]) -> Encoded:
    """An item up to the end of a step, with the tokens of the cue behind it."""
    stop = item.layout.cuts[k].stop
    types = item.token_types
    if types is not None:
        types = torch.cat([types[:stop], types.new_zeros(len(cue))])
    ids = torch.cat([item.input_ids[:stop], item.input_ids.new_tensor(cue)])
    return replace(item, input_ids=ids, token_types=types)


def forced_answer(mllm: Mllm, item: Encoded, k: int, *, max_new_tokens: int = 32) -> str | None:
    """What a model answers greedily when it is made to after step k of a response.

    The response may be unfinished, and need not state an answer.

    Args:
        mllm: The model.
        item: Prompt and response.
        k: After which step, 0 for before the first one.
        max_new_tokens: Length limit of the answer.

    Returns:
        The answer; ``None`` if it does not end within the limit.

    Raises:
        LayoutError: If the response has no rationale.
        MeasureError: If it has no such step.
    """
    if not 0 <= k < len(item.layout.step_ends):
        raise MeasureError(
            f"There is no step {k} to answer after; give 0 to {item.layout.n_steps}."
        )
    cue = AnswerCue(mllm)
    rest, first = _place([item], _Asked(0, k))
    [made] = generate(
        mllm,
        [_prompt(item, k, cue.stable(rest, first=first))],
        max_new_tokens=max_new_tokens,
    )
    text, closed = cue.said(made.ids, rest, first=first)
    return text.strip() if closed or made.finished else None


def _probabilities(steps: Sequence[tuple[Continuation, Reading]]) -> dict[str, ArrayLike]:
    log_p = np.array([reading.log_p[: text.text[1]].sum() for text, reading in steps])
    n_tokens = np.array([text.text[1] - text.text[0] for text, _ in steps])
    log_p_closed = np.array([reading.log_p.sum() for _, reading in steps])
    n_closed = np.array([len(text.tail) for text, _ in steps])
    return {
        "log_p": log_p,
        "n_tokens": n_tokens,
        "p": np.exp(log_p / n_tokens),
        "log_p_closed": log_p_closed,
        "n_closed": n_closed,
        "p_closed": np.exp(log_p_closed / n_closed),
    }


def _writes(cue: AnswerCue, text: str) -> bool:
    """Whether a text can be forced."""
    try:
        return bool(cue.behind(text))
    except MeasureError:
        return False


def _entropies(
    own: Sequence[tuple[Continuation, Reading]],
    forced: Sequence[tuple[Continuation, Reading] | None],
) -> dict[str, ArrayLike]:
    first, mean = [], []
    for final, said in zip(own, forced, strict=True):
        # Where an answer begins is mostly the same place, whatever it is.
        text, reading = said or final
        start, stop = text.text
        first.append(reading.entropy[: start + 1].sum())
        mean.append(np.nan if said is None else reading.entropy[:stop].sum() / (stop - start))
    return {"entropy": first, "entropy_answer": mean}


def _answers(
    mllm: Mllm, problem: Problem, meant: str | None, forced: Sequence[_Said]
) -> dict[str, Any]:
    texts = [said.text.strip() if said.ended else None for said in forced]
    same = [bool(text) and read_answer(str(text), problem, mllm.format) == meant for text in texts]
    return {
        "forced": texts,
        "same": pd.array([None] * len(same) if meant is None else same, dtype="boolean"),
    }
