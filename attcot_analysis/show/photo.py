"""`look`: a picture and a question of one's own, answered and looked into in two lines.

No problem, no candidates and no right answer are needed: the model writes, its text is cut into
steps, and what it looked at and when it decided is measured on its own words.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from attcot_analysis.errors import ProblemError
from attcot_analysis.files import check_free, path_of, write_bytes
from attcot_analysis.models import Mllm, encode_problem, generate
from attcot_analysis.models.generate import Generation
from attcot_analysis.models.inputs import ImageLike, read_image
from attcot_analysis.problems import Problem, ResponseFormat, response_format
from attcot_analysis.runs.look import detected_format
from attcot_analysis.show.explorer.build import (
    ExplorerSource,
    describe_place,
    explorer_record,
    make_explorer,
)
from attcot_analysis.show.explorer.page import commitment_arrays, explorer_figure, explorer_page
from attcot_analysis.show.explorer.record import ExplorerRecord, select

if TYPE_CHECKING:
    from attcot_analysis.show.explorer.widget import Explorer

UNKNOWN = "(not given)"
"""Stands for the right answer of a question that came without one; nothing is judged by it."""

PictureLike = ImageLike | npt.NDArray[np.uint8]
"""A path, a PIL image, or an array of bytes: grey, RGB or RGBA."""


@dataclass(frozen=True, eq=False)
class Look:
    """What a model made of one picture and question.

    Attributes:
        record: What was measured; an `Explorer` shows it.
        response: What the model wrote.
        answer: What it answers; ``None`` if that cannot be told.
        notes: What could not be read or measured, one sentence each.
        start: What the explorer shows first.
    """

    record: ExplorerRecord
    response: str
    answer: str | None
    notes: tuple[str, ...] = ()
    start: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def explorer(self) -> "Explorer":
        """The live explorer, which JupyterLab shows for this."""
        return make_explorer(self.record, **self.start)

    @cached_property
    def table(self) -> pd.DataFrame:
        """What it looked at and would have answered, part by part.

        Returns:
            One row before the first step, one per step, and one for the stated answer: ``part``,
            ``text``, ``mass`` (attention on the picture, mean over the part's rows, layers and
            heads), ``place`` (in which ninth of the picture most of it lies), ``forced`` (the
            answer if it is made to answer behind this part; missing if it comes to no end) and
            ``p``, the probability of its final answer there: among the options, or without any,
            per token. What is not measured is missing.
        """
        record, model = self.record, self.record.models[0]
        maps = model.maps[0]
        mean = maps.weights.mean(axis=(0, 1), dtype=np.float64)
        n_steps = maps.n_steps
        tokens: dict[str, list[int]] = {"before": []} | {
            f"step {step}": [at for at, own in enumerate(maps.steps) if own == step]
            for step in range(1, n_steps + 1)
        }
        if maps.answer is not None:
            tokens["answer"] = [maps.answer]
        elif not n_steps:
            tokens["text"] = list(range(len(maps.tokens)))
        rows = []
        for part, own in tokens.items():
            text = "".join(maps.tokens[at] for at in own).strip()
            row = {"part": part, "text": (self.answer or text) if part == "answer" else text}
            if own:
                seen = mean[own].mean(axis=0)
                row |= {"mass": seen.sum(), "place": describe_place(maps.grid, int(seen.argmax()))}
            rows.append(row)
        columns = ["part", "text", "mass", "place"]
        found = pd.DataFrame(rows, columns=columns)
        found["forced"], found["p"] = None, np.nan
        p, _ = commitment_arrays(record, model)
        if p is not None and model.commitment is not None:
            final = p[-1].argmax()
            best = [record.candidates[at] for at in p.argmax(axis=1)]
            forced = model.commitment.get("forced", pd.Series(best))
            found.loc[: len(p) - 1, "forced"] = list(forced)
            found.loc[: len(p) - 1, "p"] = p[:, final]
        return found

    def figure(self) -> Figure:
        """The maps and curves at the start's selection, as a figure."""
        return explorer_figure(self.record, select(self.record, **self.start))

    def save_html(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the explorer as one page that needs neither kernel nor network.

        Args:
            path: The file to write.
            overwrite: Replace a file that is there.

        Raises:
            RunError: If the file is there and ``overwrite`` is not set.
        """
        path = path_of(path)
        check_free(path, overwrite)
        page = explorer_page(self.record, select(self.record, **self.start))
        write_bytes(path, page.encode())
        return path

    def __str__(self) -> str:
        """Write it as lines for a terminal."""
        lines = [*self.notes, self.record.problem.question]
        rows: Any = self.table.itertuples()
        for row in rows:
            said = [f"{row.mass:.2f} on the picture, most {row.place}"] * pd.notna(row.mass)
            if pd.notna(row.forced):
                said.append(f"would answer {row.forced}")
            if pd.notna(row.p):
                said.append(f"p of its final answer {row.p:.2f}")
            lines.append(f"  {row.part}: {row.text or '(nothing written yet)'}")
            lines += [f"      {'; '.join(said)}"] * bool(said)
        lines.append(f"It answers {self.answer or 'nothing that can be told'}.")
        return "\n".join(lines)

    def __repr__(self) -> str:
        """Say what was looked at."""
        return repr(self.record).replace("ExplorerRecord", "Look", 1)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """What the explorer shows."""
        return self.explorer._repr_mimebundle_(**kwargs)


def look(
    mllm: Mllm,
    image: PictureLike,
    question: str,
    *,
    options: Sequence[str] = (),
    answer: str | None = None,
    format: str | Path | ResponseFormat | None = None,
    sources: Sequence[ExplorerSource] | None = None,
    max_new_tokens: int = 512,
    **start: Any,
) -> Look:
    """Ask a model about a picture, and show where it looked and when it decided.

    Args:
        mllm: The model.
        image: A path, a PIL image, or an array of bytes ``(height, width)``, or with 3 or 4
            colours.
        question: Without instruction on how to answer.
        options: The possible answers, at least two, if there are any: then the curve is of their
            probabilities. Without, it is of the answer that the model states, per token.
        answer: The right answer, if known; without it none is called right or wrong.
        format: How the model is asked and read: a name, a YAML file or a `ResponseFormat`.
            ``None``: as it was loaded; where that finds neither step nor answer in what the model
            writes, the format is detected.
        sources: What maps to offer; see `explore`.
        max_new_tokens: Length limit of the response.
        **start: What to show first: ``layer``, ``head``, ``token``, ``source``.

    Returns:
        The result: shown as an explorer in JupyterLab, with ``table``, ``figure()`` and
        ``save_html(path)`` elsewhere.

    Raises:
        ProblemError: If the picture cannot be read, or the question or options make no sense.
        LayoutError: If the response is empty.
    """
    problem = own_problem(image, question, options=options, answer=answer)
    mllm, made, notes = write(mllm, problem, format, max_new_tokens=max_new_tokens)
    return look_into(
        mllm, problem, made, judged=answer is not None, notes=notes, sources=sources, start=start
    )


def own_problem(
    image: PictureLike, question: str, *, options: Sequence[str] = (), answer: str | None = None
) -> Problem:
    """An item of a picture and a question, whose right answer may be unknown.

    Raises:
        ProblemError: If the picture cannot be read, or the question or options make no sense.
    """
    name = Path(image).stem if isinstance(image, str | Path) else "picture"
    if isinstance(image, np.ndarray):
        if (
            image.dtype != np.uint8
            or image.ndim not in (2, 3)
            or image.shape[2:]
            not in (
                (),
                (3,),
                (4,),
            )
        ):
            raise ProblemError(
                f"The image is an array of {image.dtype}, {image.shape}; give bytes (uint8) of "
                "shape (height, width), or with 3 or 4 colours behind."
            )
        image = Image.fromarray(image)
    stand_in = options[0] if options else UNKNOWN
    return Problem(
        id=name or "picture",
        image=read_image(image),
        question=question,
        candidates=tuple(options),
        answer=stand_in if answer is None else answer,
    )


def write(
    mllm: Mllm,
    problem: Problem,
    format: str | Path | ResponseFormat | None,
    *,
    max_new_tokens: int,
    respond: Callable[[Mllm], Generation] | None = None,
) -> tuple[Mllm, Generation, tuple[str, ...]]:
    """Let a model respond to an item in a format, or in the one that it turns out to speak.

    Args:
        mllm: The model.
        problem: The item.
        format: As `look` takes it.
        max_new_tokens: Length limit.
        respond: Lets the model write; default `generate`.

    Returns:
        The model with the format, what it wrote, and what there is to say about it.
    """
    if format is not None:
        mllm = replace(mllm, format=response_format(format))

    def generated(mllm: Mllm) -> Generation:
        prompt = encode_problem(mllm, problem)
        return generate(mllm, [prompt], max_new_tokens=max_new_tokens)[0]

    respond = respond or generated
    made = respond(mllm)
    notes = []
    parsed = mllm.parse(made.ids)
    if format is None and not parsed.steps and parsed.answer is None:
        try:
            found = detected_format(mllm, [problem], max_new_tokens=max_new_tokens)
        except ProblemError:
            notes.append(
                f"No step and no answer was found in the response, neither in the format "
                f"{mllm.format.name} nor in another; give format=."
            )
        else:
            mllm = replace(mllm, format=found.format)
            notes.append(str(found))
            made = respond(mllm)
    if not made.finished:
        notes.append(
            f"The response was cut at {len(made.ids)} tokens; give a larger max_new_tokens."
        )
    return mllm, made, tuple(notes)


def look_into(
    mllm: Mllm,
    problem: Problem,
    made: Generation,
    *,
    judged: bool = False,
    notes: Sequence[str] = (),
    sources: Sequence[ExplorerSource] | None = None,
    start: Mapping[str, Any] | None = None,
) -> Look:
    """Measure what a model wrote about an item of `own_problem`.

    Args:
        mllm: The model, with the format of its response.
        problem: The item.
        made: What it wrote.
        judged: Whether the right answer is known.
        notes: What there is to say about it.
        sources: What maps to offer.
        start: What to show first.

    Raises:
        LayoutError: If the response is empty.
    """
    label = Path(mllm.name).name
    record = explorer_record(
        {label: mllm},
        problem,
        list(made.ids),
        sources=sources,
        written={label: made},
        judged=judged,
    )
    own = record.models[0]
    said = [f"What {label} writes by itself."]
    if own.commitment is None:
        said.append(
            "No curve of its answer: "
            + ("it states none." if own.maps[0].n_steps else "its text has no step.")
        )
    text = record.text.replace("The response given.", " ".join([*said, *notes]), 1)
    return Look(
        replace(record, text=text), made.text, own.answer, tuple([*said[1:], *notes]), start or {}
    )
