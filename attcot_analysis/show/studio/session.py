"""`StudioSession`: what the studio does with a model, without any page.

A page sends messages, dictionaries with a ``kind`` and perhaps some bytes, and is told events of
the same form. The widget and the local server carry both; nothing here knows which.
"""

import io
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from attcot_analysis.attention.hook import attached
from attcot_analysis.attention.probe import Probe
from attcot_analysis.errors import AttCoTError, MeasureError, ShowError
from attcot_analysis.measures.open_answers import forced_answer
from attcot_analysis.models import Mllm, encode_problem
from attcot_analysis.models.generate import Generation, generate
from attcot_analysis.models.load import out_of_memory
from attcot_analysis.problems import FORMATS, Problem
from attcot_analysis.problems.fills import FILLS, occluded
from attcot_analysis.problems.folder import load_problems
from attcot_analysis.problems.pictures import open_picture
from attcot_analysis.shipped import TESTBED_B_PROBLEMS, shipped
from attcot_analysis.show.explorer.build import ExplorerSource, explorer_record
from attcot_analysis.show.explorer.page import explorer_state, make_content
from attcot_analysis.show.explorer.planes import index_of, pack_plane
from attcot_analysis.show.explorer.record import ExplorerRecord, read_key, select
from attcot_analysis.show.heatmaps import png_bytes
from attcot_analysis.show.photo import Look, PictureLike, look_into, own_problem, write

Tell = Callable[[Mapping[str, Any], bytes], None]
"""Takes an event and the bytes that belong to it."""

SOURCES: tuple[ExplorerSource, ...] = ("attention", "sink_free")
"""What a studio has maps of: what costs one more forward pass at most."""

BUDGET = 8_000_000
"""Bytes of maps sent with a text; what is selected later is sent in full."""

_HANDOVER = 0.5
_SHOWN = 1280
"""Pixels of the longer side of a picture that is sent to the page."""

FILL_WORDS = {
    "telea": "inpaint",
    "mean": "mean colour",
    "grey": "grey",
    "blur": "blur",
    "noise": "noise",
    "shuffle": "shuffle",
    "navier_stokes": "inpaint (Navier-Stokes)",
}
"""Fills in the order in which they are offered; one's own follow under their names."""


@dataclass(frozen=True, eq=False)
class Asked:
    """One question that was answered.

    Attributes:
        mllm: The model, with the format of its response.
        problem: Picture and question.
        made: What it wrote.
        look: What was measured of it.
    """

    mllm: Mllm
    problem: Problem
    made: Generation
    look: Look

    def whole_steps(self) -> int:
        """How many steps came to an end; of a text cut short the last one did not."""
        n_steps = self.look.record.models[0].maps[0].n_steps
        parsed = self.mllm.parse(self.made.ids)
        closed = self.made.finished or parsed.answer is not None
        return n_steps if closed or self.made.text.endswith("\n") else max(0, n_steps - 1)


class StudioSession:
    """A model that is asked about pictures, one after another.

    Attributes:
        mllm: The model as it was loaded.
        asked: The last question answered; ``None`` before the first.
        record: What the page's explorer shows, whose maps it may ask for.
    """

    def __init__(
        self,
        mllm: Mllm,
        *,
        image: PictureLike | None = None,
        question: str = "",
        max_new_tokens: int = 512,
    ) -> None:
        """Take a model, and perhaps a picture and a question to begin with.

        Raises:
            ProblemError: If the picture cannot be read.
        """
        self.mllm = mllm
        self.max_new_tokens = max_new_tokens
        self.asked: Asked | None = None
        self.record: ExplorerRecord | None = None
        self._picture: Image.Image | None = None
        if image is not None:
            self._picture = own_problem(image, question or "?").image
        self._question = question
        self._busy = threading.Lock()
        self._stop = threading.Event()

    def about(self) -> dict[str, Any]:
        """What a page must know before the first question."""
        fills = {**FILL_WORDS, **{name: name for name in FILLS if name not in FILL_WORDS}}
        return {
            "model": Path(self.mllm.name).name,
            "formats": ["", *FORMATS],
            "fills": [[name, words] for name, words in fills.items()],
            "question": self._question,
        }

    def handle(self, message: Mapping[str, Any], data: bytes, tell: Tell) -> None:
        """Do what a message asks for; whatever fails is told as an event, in a sentence.

        Kinds: ``start`` (tells the picture to begin with), ``example``, ``ask`` (``question``,
        ``options``, ``format``, and the picture as data; without, the last one), ``force``
        (``after`` a step), ``edit`` (``cells`` of the map, and a ``fill``), ``stop`` and
        ``planes`` (``names``).

        Args:
            message: The message.
            data: The bytes that came with it.
            tell: Where events go.
        """
        kind = message.get("kind")
        try:
            if kind == "stop":
                self.stop()
            elif kind == "planes":
                tell(*self.planes(message.get("names", ())))
            # A page may ask on as it hears the last event, before the lock is free.
            elif not self._busy.acquire(timeout=_HANDOVER):
                raise ShowError("The model is still at work; press Stop first, or wait.")
            else:
                try:
                    self._stop.clear()
                    self._work(str(kind), message, data, tell)
                finally:
                    self._busy.release()
        # A page must hear of every failure, or it would wait for ever.
        except Exception as error:
            tell({"kind": "error", "text": _sentence(error)}, b"")

    def stop(self) -> None:
        """End the text that is being written; what is there is kept."""
        self._stop.set()

    def _work(self, kind: str, message: Mapping[str, Any], data: bytes, tell: Tell) -> None:
        if kind == "start":
            if self._picture is not None:
                self._show(self._question, tell)
        elif kind == "example":
            problem = load_problems(shipped(TESTBED_B_PROBLEMS), limit=1)[0]
            self._picture = problem.image
            self._show(problem.question, tell)
        elif kind == "ask":
            picture = self._picture
            if data:
                picture = open_picture(io.BytesIO(data), "The picture")
            if picture is None:
                raise ShowError("There is no picture yet; drop one, or choose a file.")
            self._picture = picture
            options = [str(one).strip() for one in message.get("options", ()) if str(one).strip()]
            form = str(message.get("format") or "") or None
            self.ask(picture, str(message.get("question", "")), tell, options=options, form=form)
        elif kind == "force":
            self.force(int(message.get("after", 0)), tell)
        elif kind == "edit":
            cells = [int(cell) for cell in message.get("cells", ())]
            self.edit(cells, str(message.get("fill", "")), tell)
        else:
            raise ShowError(f"The studio knows no message {kind!r}; load the page again.")

    def _show(self, question: str, tell: Tell) -> None:
        assert self._picture is not None
        tell({"kind": "picture", "question": question}, _preview(self._picture))

    def ask(
        self,
        image: PictureLike,
        question: str,
        tell: Tell,
        *,
        options: Sequence[str] = (),
        form: str | None = None,
    ) -> None:
        """Answer a question, and tell of every token as it comes, then of all that was measured.

        Args:
            image: The picture.
            question: Without instruction.
            tell: Told of ``begin``, of each ``token`` with its map, and of ``shown``.
            options: The possible answers, if there are any.
            form: A format's name; ``None``: see `look`.

        Raises:
            ProblemError: If picture, question, options or format make no sense.
            LayoutError: If the model writes nothing.
        """
        self._question = question
        if form not in (None, *FORMATS):
            raise ShowError(f"There is no format {form!r}; choose from {', '.join(FORMATS)}.")
        problem = own_problem(image, question, options=options)

        def respond(mllm: Mllm) -> Generation:
            return self._stream(mllm, problem, tell, "original")

        limit = self.max_new_tokens
        mllm, made, notes = write(self.mllm, problem, form, max_new_tokens=limit, respond=respond)
        if self._stop.is_set() and not made.finished:
            notes = (f"Stopped after {len(made.ids)} tokens.",)
        look = look_into(mllm, problem, made, notes=notes, sources=SOURCES)
        self.asked = Asked(mllm, problem, made, look)
        self._tell_shown(look.record, tell, notes=look.notes)

    def force(self, after: int, tell: Tell) -> None:
        """Make the model answer after a step of its last text; told as ``forced``.

        Args:
            after: The step, 0 for before the first one.
            tell: Where the event goes.

        Raises:
            ShowError: If nothing was asked yet.
            MeasureError: If there is no such step.
        """
        asked = self._last()
        item = encode_problem(asked.mllm, asked.problem, response=list(asked.made.ids))
        said = forced_answer(asked.mllm, item, after)
        p = asked.look.table["p"]
        known = p.iloc[after] if after < len(p) else np.nan
        tell(
            {
                "kind": "forced",
                "after": after,
                "answer": said,
                "p": None if np.isnan(known) else round(float(known), 4),
            },
            b"",
        )

    def edit(self, cells: Sequence[int], fill: str, tell: Tell) -> None:
        """Hide a region, ask again, and show both pictures under the words first written.

        Args:
            cells: Cells of the map, row by row, that are hidden.
            fill: One of `FILLS`.
            tell: Told of ``edited`` with the picture, of each ``token``, and of ``shown``.

        Raises:
            ShowError: If nothing was asked yet.
            MeasureError: If there is no such cell or fill, or nothing is hidden.
        """
        asked = self._last()
        record = asked.look.record
        rows, cols = record.shape
        if not cells or not all(0 <= cell < rows * cols for cell in cells):
            raise MeasureError(
                f"Cells {list(cells)[:5]} are no region; paint some of the {rows} x {cols} "
                f"cells, 0 to {rows * cols - 1}."
            )
        image = asked.problem.image
        hidden = region(cells, (rows, cols), image.size)
        edited = occluded(image, hidden, fill)
        tell({"kind": "edited"}, _preview(edited))
        problem = replace(asked.problem, image=edited)
        mllm = asked.mllm
        made = self._stream(mllm, problem, tell, "edited")
        notes = () if made.finished else (f"Cut after {len(made.ids)} tokens.",)
        both = explorer_record(
            {"original": mllm, "edited": mllm},
            asked.problem,
            list(asked.made.ids),
            sources=SOURCES,
            image={"edited": edited},
            written={"original": asked.made, "edited": made},
            judged=False,
        )
        text = "Both maps are of the words written for the original picture, teacher-forced."
        self._tell_shown(replace(both, text=" ".join([text, *notes])), tell, notes=notes)

    def planes(self, names: Sequence[object]) -> tuple[dict[str, Any], bytes]:
        """Maps in full that the page has selected.

        Raises:
            ShowError: If there are none of that name.
        """
        record = self.record
        if record is None:
            raise ShowError("There are no maps yet; ask something first.")
        planes = [pack_plane(record, read_key(record, str(name))) for name in names]
        data = b"".join(plane.data for plane in planes)
        return {"kind": "planes", "index": index_of(planes)}, data

    def _last(self) -> Asked:
        if self.asked is None:
            raise ShowError("Nothing was asked yet; ask a question first.")
        return self.asked

    def _stream(self, mllm: Mllm, problem: Problem, tell: Tell, which: str) -> Generation:
        """Let the model write, and tell of every token with its map, mean over layers and heads."""
        prompt = encode_problem(mllm, problem)
        layout, grid = prompt.layout, prompt.layout.grids[0]
        rows, cols = grid.resolution
        tell({"kind": "begin", "which": which, "rows": rows, "cols": cols}, b"")
        probe = Probe(maps=True, keys=torch.as_tensor(layout.image))
        ids: list[int] = []
        told = ""

        def on_token(newest: list[int]) -> bool:
            nonlocal told
            seen = [weights[0].mean(dim=(0, 1)) for weights in probe.take().values()]
            weights = torch.stack(seen).mean(0).cpu().numpy()
            ids.append(newest[0])
            if newest[0] in mllm.stop_ids:
                return False
            text = mllm.decode(ids)
            # Of a letter in several tokens nothing is told before the last.
            piece = "" if text.endswith("\N{REPLACEMENT CHARACTER}") else text[len(told) :]
            told += piece
            cells = np.asarray(grid.to_map(weights), dtype=np.float32)
            event = {"kind": "token", "text": piece, "mass": round(float(weights.sum()), 5)}
            tell(event, cells.astype("<f4").tobytes())
            return self._stop.is_set()

        # Maps are of keys, so the columns say nothing.
        with attached(mllm.model), probe.active(torch.zeros(1, 1, 1)):
            limit = self.max_new_tokens
            return generate(mllm, [prompt], max_new_tokens=limit, on_token=on_token)[0]

    def _tell_shown(self, record: ExplorerRecord, tell: Tell, *, notes: Sequence[str]) -> None:
        self.record = record
        start = select(record)
        content = make_content(record, BUDGET, start, live=True)
        asked = self._last()
        parsed = asked.mllm.parse(asked.made.ids)
        tell(
            {
                "kind": "shown",
                "state": explorer_state(content, start),
                "steps": list(parsed.step_texts),
                "whole": asked.whole_steps(),
                "answers": [model.answer for model in record.models],
                "notes": list(notes),
            },
            content.data,
        )


def region(
    cells: Sequence[int], shape: tuple[int, int], size: tuple[int, int]
) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """The pixels of some cells of a map.

    Args:
        cells: Row by row.
        shape: Rows and columns of the map.
        size: Width and height of the picture.

    Returns:
        Bool ``(height, width)``.
    """
    rows, cols = shape
    chosen = np.zeros(rows * cols, dtype=bool)
    chosen[list(cells)] = True
    # A pixel belongs to the cell that its centre lies in.
    down = ((np.arange(size[1]) + 0.5) * rows / size[1]).astype(int)
    across = ((np.arange(size[0]) + 0.5) * cols / size[0]).astype(int)
    return chosen.reshape(rows, cols)[down[:, None], across]


def _preview(image: Image.Image) -> bytes:
    """A picture as the page shows it; the model is asked about the whole of it."""
    small = image.copy()
    small.thumbnail((_SHOWN, _SHOWN))
    return png_bytes(small)


def _sentence(error: Exception) -> str:
    if isinstance(error, AttCoTError):
        return str(error)
    if out_of_memory(error):
        return "Memory ran out; take a smaller picture, or load the model with max_pixels."
    traceback.print_exception(error)
    return f"Something unexpected failed ({type(error).__name__}); the terminal says more."
