"""Dependence: would the answer change if the picture did, and prior reliance: would it not."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import logsumexp

from attcot_analysis.attention.packing import candidate_tokens, final_answers
from attcot_analysis.attention.prefixes import while_needed
from attcot_analysis.errors import MeasureError, check_known, check_table
from attcot_analysis.measures._items import (
    Empty,
    Need,
    Response,
    Result,
    batches,
    paired,
    seen_edits,
)
from attcot_analysis.measures.answers import answer_problems, parsed_answer
from attcot_analysis.models import Encoded, Mllm, encode_problem
from attcot_analysis.models.generate import Sampling
from attcot_analysis.models.inputs import Shown
from attcot_analysis.problems import Problem
from attcot_analysis.problems.edits import (
    EDIT_KINDS,
    EditedImage,
    EditKind,
    EditOptions,
    edit_function,
    edited_images,
    left_out,
)

CONTROL_OF: Mapping[str, str] = MappingProxyType({"twin": "control", "occlude": "occlude_control"})
"""Edits that change the evidence → the edit as large that leaves it."""

Rationale = Literal["fixed", "regenerated"]


class Dependence(Result):
    """What `dependence` measured: what becomes of an answer when the picture is edited."""

    name = "dependence"
    title = "Counterfactual dependence"
    columns = (
        "item",
        "edit",
        "rationale",
        "answer_before",
        "answer_after",
        "expected",
        "followed",
        "flipped",
        "log_p_before",
        "log_p_after",
        "delta_log_p",
    )

    def items(
        self, quantity: str = "delta_log_p", *, rationale: Rationale = "fixed"
    ) -> pd.DataFrame:
        """A quantity of every item, one column per edit.

        Args:
            quantity: A column of the table.
            rationale: Of which rationale.

        Returns:
            ``item`` and the edits; missing where an item does not allow one.
        """
        rows = self.table[self.table["rationale"] == rationale]
        wide = rows.pivot(index="item", columns="edit", values=quantity)
        return wide.rename_axis(columns=None).reset_index()

    def net(self, edit: str = "twin") -> pd.DataFrame:
        """What an edit of the evidence does beyond an edit as large that leaves the evidence.

        Where a picture had no room for as large a control, ``delta_log_p_control`` is what the
        smaller one does, times how much larger the evidence is (`control_ratio`).

        Args:
            edit: ``"twin"`` (against ``"control"``) or ``"occlude"`` (against
                ``"occlude_control"``).

        Returns:
            One row per item and rationale that has both: ``item``, ``edit``, ``rationale``;
            ``delta_log_p``, ``delta_log_p_control``, ``net`` (their difference, nats);
            ``net_share``, `net` as a share of what the answer could lose (see `dependence`), cut at
            −1 and 1, missing in tables of earlier versions; ``flipped``, ``flipped_control``,
            ``net_flipped`` (their difference, −1, 0 or 1; missing where either is). Average
            ``net_share`` with `bootstrap_mean`: ``net`` grows with how sure a model is.

        Raises:
            MeasureError: If the table lacks an edit or its control, or no item has both.

        Source: net form as in CED, arXiv 2608.08021; reconstruction of arXiv 2606.01558.
        """
        if edit not in CONTROL_OF:
            raise MeasureError(
                f"{edit!r} has no matched control; choose {' or '.join(map(repr, CONTROL_OF))}."
            )
        keys = ["item", "rationale"]
        parts = {}
        for kind in (edit, CONTROL_OF[edit]):
            rows = self.table["edit"] == kind
            parts[kind] = self.table.loc[rows].reindex(
                columns=[*keys, "delta_log_p", "flipped", "can_lose"]
            )
            if parts[kind].empty:
                raise MeasureError(
                    f"The table of dependence has no rows for the edit {kind!r}; give one run of "
                    f"dependence(..., edits=({edit!r}, {CONTROL_OF[edit]!r}))."
                )
        both = parts[edit].merge(parts[CONTROL_OF[edit]], on=keys, suffixes=("", "_control"))
        if both.empty:
            raise MeasureError(
                f"No item has both {edit!r} and {CONTROL_OF[edit]!r}; measure both on the same "
                "items."
            )
        ratio = both["item"].map(control_ratio(self.table, edit)).fillna(1.0)
        both["delta_log_p_control"] *= ratio
        flips = [both[name].astype("Int64") for name in ("flipped", "flipped_control")]
        net = both["delta_log_p"] - both["delta_log_p_control"]
        return pd.DataFrame(
            {
                "item": both["item"],
                "edit": edit,
                "rationale": both["rationale"],
                "delta_log_p": both["delta_log_p"],
                "delta_log_p_control": both["delta_log_p_control"],
                "net": net,
                "net_share": share_lost(net, both["can_lose"]),
                "flipped": both["flipped"],
                "flipped_control": both["flipped_control"],
                "net_flipped": flips[0] - flips[1],
            }
        )

    def _check(self) -> None:
        twice = self.table.duplicated(["item", "edit", "rationale"])
        if twice.any():
            row = self.table[twice].iloc[0]
            raise MeasureError(
                f"The table of dependence has an item twice for the edit {row['edit']!r}; give "
                "the table of one run."
            )

    def _headline(self) -> dict[str, npt.ArrayLike]:
        means: dict[str, npt.ArrayLike] = {}
        parts = {
            (str(edit), str(rationale)): part
            for (edit, rationale), part in self.table.groupby(["edit", "rationale"], sort=False)
        }
        if ("twin", "regenerated") in parts:
            followed = parts["twin", "regenerated"]["followed"]
            means["answer follows the twin, rationale regenerated"] = followed.astype("Float64")
        for (kind, rationale), part in parts.items():
            if rationale == "regenerated":
                flipped = part["flipped"].astype("Float64")
                means[f"answer flipped on {kind}, rationale regenerated"] = flipped
        for edit, control in CONTROL_OF.items():
            both = [
                set(parts[kind, "fixed"]["item"])
                for kind in (edit, control)
                if (kind, "fixed") in parts
            ]
            if len(both) == 2 and both[0] & both[1]:
                net = self.net(edit)
                net = net[net["rationale"] == "fixed"]
                name = f"log p lost on {edit} minus {control}, rationale fixed"
                means |= {f"{name}, of what can be lost": net["net_share"], name: net["net"]}
        for (kind, rationale), part in parts.items():
            if rationale == "fixed":
                means[f"log p lost on {kind}, rationale fixed"] = part["delta_log_p"]
        return means


def control_ratio(table: pd.DataFrame, edit: str = "occlude") -> pd.Series:
    """How many times as much of the picture an edit covers as its control, per item, at least 1.

    Args:
        table: Of `dependence`.
        edit: A key of `CONTROL_OF`.

    Returns:
        By item; 1 where both are as large, or the table does not say (twins are matched by who
        makes them).
    """
    if edit != "occlude" or "area" not in table:
        return pd.Series(1.0, index=table["item"].unique())
    area = table.groupby(["item", "edit"])["area"].first().unstack()
    area = area.reindex(columns=[edit, CONTROL_OF[edit]])
    return (area[edit] / area[CONTROL_OF[edit]]).clip(lower=1.0).fillna(1.0)


def can_lose(log_p: npt.NDArray[np.float64], place: int) -> float:
    """What one candidate would lose if it became a wrong one like the others.

    Args:
        log_p: ``(C,)`` log-probabilities of the candidates.
        place: Of the one.

    Returns:
        Nats, at least log 2: an answer that is not twice as probable as a wrong one has hardly
        anything to lose, and a share of that would be noise.
    """
    others = np.delete(log_p, place)
    return float(max(log_p[place] - (logsumexp(others) - np.log(len(others))), np.log(2)))


def share_lost(lost: pd.Series, can_lose: pd.Series) -> pd.Series:
    """Nats lost as a share of what can be, cut at −1 and 1."""
    return (lost / can_lose).clip(-1, 1)


COLUMNS = (*Dependence.columns, "area", "can_lose")
"""The columns of a table of `dependence`; earlier versions' lack the last ones."""


def prior_reliance(
    answers: pd.DataFrame, text_only: pd.DataFrame, grey: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Hold answers given with the picture against those given without it.

    Args:
        answers: From `answer_problems`, with the picture.
        text_only: From ``answer_problems(..., text_only=True)`` on the same items.
        grey: Another way to take the picture away: from ``answer_problems(..., images=...)`` with
            the pictures of ``edited_images(problems, "blank")``.

    Returns:
        One row per item: ``item``, ``answer``, ``answer_text_only``; ``agrees`` (the same
        candidate; an answer that cannot be told agrees with none); ``overridden`` (``agrees``,
        where the text-only answer is wrong, so that agreement cannot come from both being right;
        missing elsewhere); ``habitual``, ``habitual_text_only``. With ``grey`` also the same of it
        (``answer_grey``, ``agrees_grey``, ``overridden_grey``, ``habitual_grey``) and
        ``agrees_difference``, ``agrees_grey`` − ``agrees``: where it is not 0, what looks like the
        prior hangs on how the picture is taken away.

    Raises:
        MeasureError: If the tables hold different items or an item twice.

    Source: reconstruction (textual-prior reliance of arXiv 2606.01558).
    """
    found = _without(answers, text_only, "text_only")
    if grey is None:
        return found
    more = _without(answers, grey, "grey").drop(columns=["answer", "habitual"])
    more = more.rename(columns={"agrees": "agrees_grey", "overridden": "overridden_grey"})
    both = found.merge(more, on="item")
    return both.assign(agrees_difference=both["agrees_grey"].astype(int) - both["agrees"])


def _without(answers: pd.DataFrame, other: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Answers with the picture against those of one way to take it away."""
    for name, table in (("answers", answers), (kind, other)):
        check_table(table, name, ("item", "answer", "correct", "habitual"))
        if table["item"].duplicated().any():
            raise MeasureError(
                f"The table {name} holds an item twice; give one table of answer_problems(), one "
                "run."
            )
    both = answers.merge(other, on="item", suffixes=("", f"_{kind}"))
    if len(both) != len(answers) or len(both) != len(other):
        raise MeasureError(
            f"The tables share {len(both)} of {len(answers)} and {len(other)} items; "
            "answer the same problems with and without the picture."
        )
    agrees = (both["answer"] == both[f"answer_{kind}"]) & both["answer"].notna()
    wrong = ~both[f"correct_{kind}"].astype(bool)
    return pd.DataFrame(
        {
            "item": both["item"],
            "answer": both["answer"],
            f"answer_{kind}": both[f"answer_{kind}"],
            "agrees": agrees.astype(bool),
            "overridden": agrees.astype("boolean").where(wrong),
            "habitual": both["habitual"],
            f"habitual_{kind}": both[f"habitual_{kind}"],
        }
    )


Work = tuple[int, Shown | None, Response]
"""An item's place, what it shows instead of its own pictures, and a response."""

_Before = dict[int, np.ndarray]


def dependence(
    mllm: Mllm,
    problems: Sequence[Problem],
    base_responses: Sequence[Response],
    *,
    edits: Sequence[EditKind] = ("twin", "control", "blank"),
    edited: Sequence[EditedImage] | None = None,
    options: EditOptions | None = None,
    rationales: Sequence[Rationale] = ("fixed", "regenerated"),
    regenerated_log_p: bool = True,
    empty: Empty = "error",
    batch_size: int = 16,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    sampling: Sampling | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Dependence:
    """Edit every item's picture and see what becomes of its answer.

    Edits: ``"twin"`` is the smallest edit that changes the right answer; ``"control"`` an edit
    of the same size that leaves it; ``"blank"`` a mid-grey picture of the same size; ``"swap"``
    the picture of the next item (cyclic) with a different answer; ``"blur"`` the picture
    blurred; ``"occlude"`` the evidence boxes filled, ``"occlude_control"`` as much of the rest, or
    what there is of it.
    Items that do not allow an edit have no rows for it; ``skipped`` names them per edit.
    `Dependence.net` holds an edit against its control.

    Rationale ``"fixed"``: the base response's rationale is kept, word for word, and the answer
    forced after it, on both pictures. This asks whether the *answer* looks at the picture
    directly: where the rationale states the evidence, the answer can be copied from it, and a
    small change is then no sign of blindness. ``"regenerated"``: the model responds afresh
    (greedily, unless ``sampling`` says otherwise) to the edited picture. This asks whether
    rationale and answer *together* depend on it. Open questions have no fixed rows and no
    log-probabilities.

    Args:
        mllm: The model.
        problems: The items.
        base_responses: Per item the model's response to the original picture, as token ids (as
            in the ``ids`` of `answer_problems`) or text.
        edits: Any of ``"twin"``, ``"control"``, ``"blank"``, ``"swap"``, ``"blur"``,
            ``"occlude"``, ``"occlude_control"`` and the others of `edited_images`, or a function
            of your own as ``"module:function"``.
        edited: The edited pictures, where they were made among more items than these; default
            those that `edited_images` makes for every one of ``edits``.
        options: How to blur and occlude.
        rationales: Any of ``"fixed"``, ``"regenerated"``.
        regenerated_log_p: Read the log-probabilities after regenerated rationales; without them
            a forward pass per edit is saved, and those columns are missing in these rows.
        empty: What to do with base responses that have no rationale step: raise an error, or
            leave their fixed rows out (with regenerated ones ``log_p_before`` is then missing).
        batch_size: Items per forward pass or generation.
        max_new_tokens: Length limit of a regenerated response.
        temperature: Of regenerated responses, 0 for greedy. Give it that of the base responses:
            above 0 an answer also flips by chance, as it does on the control edit.
        sampling: How regenerated responses are drawn instead, which should be as the base responses
            were; see `generate`.
        seed: For sampling.
        progress: Show a progress bar.

    Returns:
        A result whose table has one row per item, edit and rationale:

        * ``answer_before``: fixed: the candidate that is most probable after the base rationale
          on the original picture; regenerated: the base response's own answer (missing if none
          can be told); ``answer_after``: likewise on the edited picture;
        * ``expected``: right answer on the edited picture, missing where there is none;
          ``followed``: the answer after is that one; ``flipped``: the answers differ (one that
          can no longer be told counts as different; missing without an answer before);
        * ``log_p_before``, ``log_p_after``: log-probability (nats, normalised over the
          candidates) of ``answer_before``, forced after the rationale on the original and on
          the edited picture; regenerated: after the new rationale, missing where that has no
          step; ``delta_log_p``: before − after, so high means dependent;
        * ``area``: share of the picture in which the edit may change pixels;
        * ``can_lose``: nats that ``answer_before`` would lose on the original picture if it became
          as improbable as the other candidates are there on average, at least log 2: what
          ``delta_log_p`` is to be held against, since a surer model loses more for the same flip.

    Raises:
        MeasureError: If inputs do not fit together, no item has a requested edit, or a response
            has no rationale step (``empty="error"``).

    Source: CVD, its regenerated form and flip rate after arXiv 2606.01558 (reconstruction; only
    key-region occlusion is known to be used there); semantic edits with a recomputed answer are
    the strongest of its kind.
    """
    if not edits:
        check_known(list(edits), EDIT_KINDS, "edits is []")
    for kind in edits:
        edit_function(kind)
    check_known(list(rationales), Rationale, f"rationales is {list(rationales)}")
    reading = DependenceReader(
        mllm,
        problems,
        base_responses,
        rationales=rationales,
        regenerated_log_p=regenerated_log_p,
        empty=empty,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        sampling=sampling,
        seed=seed,
        progress=progress,
    )
    if edited is None:
        edited = [one for kind in edits for one in edited_images(problems, kind, options=options)]
    for kind in edits:
        reading.read(kind, [one for one in edited if one.kind == kind])
    return reading.result()


class DependenceReader:
    """`dependence` edit by edit, so that no two edits' pictures need be in memory at once."""

    def __init__(
        self,
        mllm: Mllm,
        problems: Sequence[Problem],
        base_responses: Sequence[Response],
        *,
        rationales: Sequence[Rationale],
        regenerated_log_p: bool,
        empty: Empty,
        batch_size: int,
        progress: bool = False,
        **writing: Any,
    ) -> None:
        """See what can be measured; arguments as of `dependence`."""
        need: Need = "rationale" if empty == "error" else "nothing"
        items = paired(mllm, problems, base_responses, need=need, empty=empty, several=True)
        parsed = list(items.parsed.values())
        self._mllm, self._problems, self._responses = mllm, problems, base_responses
        self._rationales, self._log_p_too = rationales, regenerated_log_p
        self._size, self._progress, self._writing = batch_size, progress, writing
        self._tokens = {
            at: candidate_tokens(mllm, problem.candidates)
            for at, problem in enumerate(problems)
            if problem.candidates
        }
        self._parsed = parsed
        pairs = zip(parsed, problems, strict=True)
        self._answers = [parsed_answer(one, problem, mllm.format) for one, problem in pairs]
        self._rows: dict[Rationale, list[dict[str, Any]]] = {"fixed": [], "regenerated": []}
        stepless = tuple(problems[at].id for at, one in enumerate(parsed) if not one.steps)
        self._skipped = {"no rationale step to keep": stepless} if stepless else {}

    @cached_property
    def _before(self) -> _Before:
        """By place, the answers on the original pictures, where there is a rationale to keep."""
        places = [at for at, one in enumerate(self._parsed) if one.steps and at in self._tokens]
        work: list[Work] = [(at, None, self._responses[at]) for at in places]
        return dict(zip(places, self._log_p(work, "dependence, before"), strict=True))

    def read(self, kind: EditKind, edited: Sequence[EditedImage]) -> None:
        """Read the answers under one edit; items that it is not there for are noted."""
        own, before = seen_edits(self._mllm, self._problems, edited), self._before
        for names in left_out(self._problems, own, [kind]).values():
            self._skipped[f"no edit {kind}"] = tuple(names)
        # What is kept of an edited picture serves both rationales, and no other edit.
        with while_needed(self._mllm):
            if "fixed" in self._rationales:
                self._rows["fixed"] += self._fixed(own, before)
            if "regenerated" in self._rationales and own:
                own_before = before if self._log_p_too else {}
                self._rows["regenerated"] += self._regenerated(kind, own, own_before)

    def result(self) -> Dependence:
        """What was read."""
        table = pd.DataFrame(
            [*self._rows["fixed"], *self._rows["regenerated"]], columns=list(COLUMNS)
        )
        table = table.astype({"followed": "boolean", "flipped": "boolean"})
        return Dependence(table, self._problems, skipped=self._skipped)

    def _fixed(self, edited: Sequence[EditedImage], before: _Before) -> list[dict[str, Any]]:
        """Rows of one edit with the base rationales."""
        problems = self._problems
        kept = [one for one in edited if one.at in before]
        work = [(one.at, one.shown(problems[one.at]), self._responses[one.at]) for one in kept]
        rows = []
        for one, after in zip(kept, self._log_p(work, "dependence, fixed"), strict=True):
            candidates = problems[one.at].candidates
            first, second = int(before[one.at].argmax()), int(after.argmax())
            answers = candidates[first], candidates[second]
            log_p = before[one.at][first], after[first]
            room = can_lose(before[one.at], first)
            rows.append(_row(problems[one.at], one, "fixed", answers, log_p, room))
        return rows

    def _regenerated(
        self, kind: EditKind, edited: Sequence[EditedImage], before: _Before
    ) -> list[dict[str, Any]]:
        """Rows of one edit with fresh responses."""
        problems = self._problems
        shown = [one.shown(problems[one.at]) for one in edited]
        fresh = answer_problems(
            self._mllm,
            [problems[one.at] for one in edited],
            images=shown,
            batch_size=self._size,
            progress=self._progress,
            **self._writing,
        )
        usable = [
            at
            for at, (one, n) in enumerate(zip(edited, fresh["n_steps"], strict=True))
            if n and one.at in before and self._answers[one.at] is not None
        ]
        ids = fresh["ids"].tolist()
        work = [(edited[at].at, shown[at], ids[at]) for at in usable]
        after = dict(zip(usable, self._log_p(work, f"dependence, {kind}"), strict=True))
        rows = []
        for at, (one, answer) in enumerate(zip(edited, fresh["answer"], strict=True)):
            problem, first = problems[one.at], self._answers[one.at]
            log_p, room = (np.nan, np.nan), np.nan
            if first is not None and one.at in before:
                place = problem.candidates.index(first)
                later = after[at][place] if at in after else np.nan
                log_p, room = (before[one.at][place], later), can_lose(before[one.at], place)
            second = answer if isinstance(answer, str) else None
            rows.append(_row(problem, one, "regenerated", (first, second), log_p, room))
        return rows

    def _log_p(self, work: Sequence[Work], name: str) -> list[np.ndarray]:
        """Per piece of work the candidates' log-probabilities after the last step, normalised."""
        results: list[np.ndarray] = []
        for chunk in batches(work, self._size, name, self._progress):
            items: list[Encoded] = [
                encode_problem(
                    self._mllm, self._problems[at], mode="cot", response=response, image=image
                )
                for at, image, response in chunk
            ]
            names = [self._problems[at].id for at, _, _ in chunk]
            tokens = [self._tokens[at] for at, _, _ in chunk]
            results += final_answers(self._mllm, items, tokens, names)
        return results


def _row(
    problem: Problem,
    edited: EditedImage,
    rationale: Rationale,
    answers: tuple[str | None, str | None],
    log_p: tuple[float, float],
    room: float,
) -> dict[str, Any]:
    before, after = answers
    return {
        "item": problem.id,
        "edit": edited.kind,
        "rationale": rationale,
        "answer_before": before,
        "answer_after": after,
        "expected": edited.expected,
        "followed": None if edited.expected is None else after == edited.expected,
        "flipped": None if before is None else after != before,
        "log_p_before": float(log_p[0]),
        "log_p_after": float(log_p[1]),
        "delta_log_p": float(log_p[0] - log_p[1]),
        "area": edited.area,
        "can_lose": room,
    }
