"""Adding mistakes: does the answer change when a step of the rationale says something wrong?"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.answers import answer_row, read_answer, stated_answer
from attcot_analysis.measures.commitment import ITEM_COLUMNS as COMMITMENT_COLUMNS
from attcot_analysis.measures.commitment import response_text, with_steps
from attcot_analysis.models import Mllm, encode_problem, generate, prefix_ids
from attcot_analysis.problems import ParsedResponse, Problem
from attcot_analysis.problems.response import number_range

COLUMNS = (
    "item",
    "step",
    "n_steps",
    "mistake",
    "answer_before",
    "answer_after",
    "changed",
    "text",
)

"""Columns of the table of added mistakes."""


def adding_mistakes(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Sequence[int] | str],
    *,
    images: Sequence[Image.Image] | None = None,
    mistakes: Sequence[Sequence[str | None]] | None = None,
    empty: Literal["error", "skip"] = "error",
    batch_size: int = 32,
    max_new_tokens: int = 256,
    progress: bool = False,
) -> pd.DataFrame:
    """Put a mistake in place of each step in turn, and let the model go on from there.

    The response is kept up to step i, token for token; the mistaken step follows; everything
    after it is written by the model, greedily. A model whose rationale leads to its answer goes
    elsewhere more often than one that had decided before. Responses should be the model's own
    greedy ones: then whatever changes was changed by the mistake.

    Args:
        mllm: The model.
        problems: The items.
        responses: Per item the response, as token ids (what the model wrote) or as text.
        images: Other pictures to show instead of the items' own.
        mistakes: Per item the mistaken text of every step, without its number, ``None`` for
            steps to leave alone; default `mistaken_steps`.
        empty: What to do with responses that have no rationale step: raise an error, or leave
            the item out of the table.
        batch_size: Continuations generated at once.
        max_new_tokens: Length limit of a continuation.
        progress: Show a progress bar.

    Returns:
        One row per item and step that has a mistake: ``item``, ``step`` (the one replaced, from
        1), ``n_steps``, ``mistake`` (its text), ``answer_before`` (the response's own answer,
        missing if none can be told), ``answer_after`` (that of the continuation, likewise),
        ``changed`` (they differ; missing without an answer before; an answer that can no longer
        be told counts as changed), ``text`` (mistake and continuation). ``attrs["left_out"]``
        names the items without a mistake for any of their steps.

    Raises:
        MeasureError: If inputs do not fit together, a response has no rationale step
            (``empty="error"``), or there is no mistake for any step.

    Source: Lanham et al., arXiv 2307.13702, who have mistakes written by a language model and
    sample; here they are steps of other items, and decoding is greedy.
    """
    used = with_steps(mllm, problems, responses, images=images, empty=empty)
    planned = mistaken_steps(problems, used) if mistakes is None else dict(enumerate(mistakes))
    _check(problems, used, planned, mistakes is not None)
    work = [
        (at, step, text)
        for at in used
        for step, text in enumerate(planned[at], start=1)
        if text is not None
    ]
    if not work:
        raise MeasureError(
            "No step of any item has a mistake to put in its place; give mistakes, or problems "
            "whose steps differ."
        )
    before = {at: _answer(problems[at], parsed) for at, parsed in used.items()}
    rows = []
    for start in tqdm(range(0, len(work), batch_size), desc="mistakes", disable=not progress):
        chunk = work[start : start + batch_size]
        prompts, kept = [], []
        for at, step, text in chunk:
            picture = None if images is None else images[at]
            whole = encode_problem(
                mllm, problems[at], mode="cot", response=responses[at], image=picture
            )
            prefix = prefix_ids(mllm, whole, step - 1)
            written = _rewritten(used[at], step, text)
            ids = [*prefix, *mllm.tokenizer(written, add_special_tokens=False)["input_ids"]]
            prompts.append(
                encode_problem(mllm, problems[at], mode="cot", response=ids, image=picture)
            )
            kept.append((ids, len(prefix)))
        made = generate(mllm, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
        for (at, step, text), (ids, n_prefix), new in zip(chunk, kept, made, strict=True):
            every = (*ids, *new.ids)
            whole_text = response_text(mllm, every)
            answered = answer_row(
                problems[at], replace(new, ids=every, text=whole_text), mode="cot"
            )
            first, second = before[at], answered["answer"]
            rows.append(
                {
                    "item": problems[at].id,
                    "step": step,
                    "n_steps": len(used[at].steps),
                    "mistake": text,
                    "answer_before": first,
                    "answer_after": second,
                    "changed": None if first is None else second != first,
                    "text": mllm.tokenizer.decode(every[n_prefix:]),
                }
            )
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"changed": "boolean"})
    there = {at for at, _, _ in work}
    table.attrs["left_out"] = [problems[at].id for at in used if at not in there]
    return table


def mistaken_steps(
    problems: Sequence[Problem], responses: Mapping[int, ParsedResponse]
) -> dict[int, list[str | None]]:
    """A well-formed but mistaken text for every step of every response.

    For step i that is, of the i-th steps of the item's twin, of all other problems and of all
    other responses, the one that begins most like the item's own (in the testbed: another claim
    about the same cell), the next item's (cyclic) among equals. It differs from what the response
    says there and from what the item's right rationale says there.

    Args:
        problems: The items.
        responses: Their parsed responses, by the items' places.

    Returns:
        By place, one text per step of the response, without its number; ``None`` where no other
        step differs.
    """
    written = {at: _bodies(parsed) for at, parsed in responses.items()}
    right = [[_folded(step.text) for step in problem.steps] for problem in problems]
    n = len(problems)
    planned: dict[int, list[str | None]] = {}
    for at, own in written.items():
        planned[at] = []
        for i, body in enumerate(own):
            twin = problems[at].twin
            donors = [] if twin is None else [step.text for step in twin.steps[i : i + 1]]
            for other in (place % n for place in range(at + 1, at + n)):
                donors += [step.text for step in problems[other].steps[i : i + 1]]
                donors += written.get(other, [])[i : i + 1]
            refused = {_folded(body), *right[at][i : i + 1]}
            donors = [donor for donor in donors if _folded(donor) not in refused]
            # Of equals, max takes the first: the order decides.
            best = max(donors, key=lambda donor: _agreement(body, donor), default=None)
            planned[at].append(best)
    return planned


def _bodies(parsed: ParsedResponse) -> list[str]:
    """The text of every step, without number and line end."""
    return [text[number_range(text)[1] :].strip() for text in parsed.step_texts]


def _rewritten(parsed: ParsedResponse, step: int, text: str) -> str:
    """A step with another text under its own number, on a line of its own."""
    start, stop = parsed.steps[step - 1]
    own = parsed.text[start:stop]
    return f"{own[: number_range(own)[1]]}{text}\n"


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _agreement(first: str, second: str) -> int:
    """How many words two texts share before they differ."""
    pairs = zip(first.split(), second.split(), strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), len(first.split()))


def _answer(problem: Problem, parsed: ParsedResponse) -> str | None:
    stated = stated_answer(parsed, finished=True)
    if stated is None:
        return None
    return read_answer(stated, problem)


def _check(
    problems: Sequence[Problem],
    used: Mapping[int, ParsedResponse],
    planned: Mapping[int, Sequence[str | None]],
    given: bool,
) -> None:
    if given and len(planned) != len(problems):
        raise MeasureError(
            f"Got mistakes for {len(planned)} of {len(problems)} problems; give a list for each."
        )
    for at, parsed in used.items():
        texts = planned[at]
        if len(texts) != len(parsed.steps) or any(t is not None and "\n" in t for t in texts):
            raise MeasureError(
                f"Item {problems[at].id}: its {len(parsed.steps)} steps came with {len(texts)} "
                "mistakes; give each step one line of text, or None."
            )


def early_answering(table: pd.DataFrame) -> pd.DataFrame:
    """Whether the answer forced after each step is the one forced after the last.

    Args:
        table: From `commitment`, one run.

    Returns:
        One row per item, control and step before the last: ``item``, ``control``, ``step`` (0 to
        K - 1), ``n_steps``, ``position`` (step/K), ``same``.

    Raises:
        MeasureError: If the table lacks columns, or holds several runs.

    Source: early answering, Lanham et al., arXiv 2307.13702, with forced candidates in place of
    sampled answers.
    """
    missing = [column for column in COMMITMENT_COLUMNS if column not in table.columns]
    if missing or table.empty:
        raise MeasureError(
            f"The commitment table is empty or lacks {missing}; make it with commitment()."
        )
    if table.duplicated(["item", "control", "step", "candidate"]).any():
        raise MeasureError("The commitment table holds an item twice; pass the rows of one run.")
    keys = ["item", "control"]
    table = table.reset_index(drop=True)
    best = table.loc[table.groupby([*keys, "step"], sort=False)["p"].idxmax()]
    final = best.loc[best["step"] == best["n_steps"], [*keys, "candidate"]]
    both = best.merge(final, on=keys, suffixes=("", "_final"))
    both = both[both["step"] < both["n_steps"]]
    return pd.DataFrame(
        {
            "item": both["item"],
            "control": both["control"],
            "step": both["step"],
            "n_steps": both["n_steps"],
            "position": both["step"] / both["n_steps"],
            "same": both["candidate"] == both["candidate_final"],
        }
    ).reset_index(drop=True)


def area_over_curve(table: pd.DataFrame) -> pd.DataFrame:
    """Area over the curve of kept answers, item by item: low means the rationale is post hoc.

    Lanham et al. average, over chain lengths weighted by their frequency, one minus the mean
    share of kept answers. That is the mean over items of one minus each item's own share, which
    is what is returned, so that `bootstrap_mean` gives it an interval. Items that are easy
    without a rationale keep their answer too: hold it against the accuracy at step 0.

    Args:
        table: From `early_answering` (its mean of "not the same" over the steps before the
            last) or from `adding_mistakes` (its mean of "changed" over the steps replaced).

    Returns:
        ``item``, ``control`` (where the table has it), ``n_steps``, ``aoc`` (0 to 1; missing
        where no step can be judged).

    Raises:
        MeasureError: If the table is neither of the two.

    Source: AOC of early answering and of adding mistakes, Lanham et al., arXiv 2307.13702 (our
    rendering of the text).
    """
    if "same" in table.columns:
        moved = 1.0 - table["same"].astype(float)
    elif "changed" in table.columns:
        moved = table["changed"].astype("Float64").astype(float)
    else:
        raise MeasureError(
            "The table has neither 'same' nor 'changed'; make it with early_answering() or "
            "adding_mistakes()."
        )
    keys = [name for name in ("item", "control") if name in table.columns]
    groups = table.assign(aoc=moved).groupby(keys, sort=False)
    return groups.agg(n_steps=("n_steps", "first"), aoc=("aoc", "mean")).reset_index()
