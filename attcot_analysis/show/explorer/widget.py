"""`Explorer`: where every token of a text looks in its picture, in JupyterLab or in a page.

The widget sends packed maps once; its script (``static/explorer.js``) draws them, and asks for what
was too large to send when it is selected. The same script draws what `Explorer.to_html` writes.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import anywidget
import pandas as pd
import traitlets
from matplotlib.figure import Figure

from attcot_analysis.errors import AttCoTError, ShowError
from attcot_analysis.files import check_free, path_of, write_bytes
from attcot_analysis.problems import Problem
from attcot_analysis.show.explorer.gallery import gallery_spec
from attcot_analysis.show.explorer.page import (
    PAGE_BUDGET,
    explorer_figure,
    explorer_fragment,
    explorer_page,
    gallery_page,
    make_content,
    static_text,
)
from attcot_analysis.show.explorer.planes import (
    Reading,
    index_of,
    pack_plane,
    plane_cells,
    plane_readings,
    plane_stats,
    plane_weights,
)
from attcot_analysis.show.explorer.record import (
    CODES,
    ExplorerRecord,
    HeadChoice,
    LayerChoice,
    PlaneKey,
    Selection,
    read_key,
    select,
    traits_of,
)
from attcot_analysis.show.heatmaps import OPACITY

LIVE_BUDGET = 8_000_000
"""Bytes of maps that a live explorer sends at first; what is selected later is sent in full."""

_WORDS: dict[int, Any] = {code: word for word, code in CODES.items()}
_CHOSEN = ("source", "layer", "head", "token", "unit")
_CODED = ("layer", "head")
_KEEP: Any = object()


class Explorer(anywidget.AnyWidget):
    """The attention explorer.

    In JupyterLab it is live; what it leaves in the notebook works without a kernel, and shows a
    still picture where scripts are stripped.

    Attributes:
        record: What is explored.
        opacity: Of the map over the picture where it is strongest, 0 to 1.
        one_scale: Whether one colour scale holds for all tokens, or each map has its own.
        first: Index of the model on the left.
        second: Index of the model on the right.
    """

    _esm = static_text("explorer.js")
    _css = static_text("explorer.css")
    spec = traitlets.Dict().tag(sync=True)
    data = traitlets.Bytes().tag(sync=True)
    source = traitlets.Unicode().tag(sync=True)
    layer = traitlets.Int(CODES["mean"]).tag(sync=True)
    head = traitlets.Int(CODES["mean"]).tag(sync=True)
    token = traitlets.Int(0).tag(sync=True)
    unit = traitlets.Enum(("token", "step"), "token").tag(sync=True)
    opacity = traitlets.Float(OPACITY, min=0.0, max=1.0).tag(sync=True)
    one_scale = traitlets.Bool(True).tag(sync=True)
    first = traitlets.Int(0, min=0).tag(sync=True)
    second = traitlets.Int(1, min=0).tag(sync=True)

    def __init__(
        self,
        record: ExplorerRecord,
        *,
        budget: int | None = LIVE_BUDGET,
        twin: bool = True,
        source: str | None = None,
        layer: LayerChoice | None = None,
        head: HeadChoice | None = None,
        token: int | str | None = None,
    ) -> None:
        """Make the widget.

        Args:
            record: What to explore.
            budget: Bytes of maps to send at first; ``None`` for all.
            twin: Also leave in the notebook what works without a kernel, some 300 kB of HTML.
            source: As for `select`; also the following.
            layer: Layer to start with.
            head: Head to start with.
            token: Token to start with.

        Raises:
            ShowError: If the record has no such source, layer, head or token.
        """
        self.record = record
        self._twin = twin
        start = select(record, source=source, layer=layer, head=head, token=token)
        content = make_content(record, budget, start, live=True)
        super().__init__(
            spec=content.spec,
            data=content.data,
            **traits_of(start),
        )
        self.on_msg(self._send_planes)

    def __repr__(self) -> str:
        """Say what is explored, the same in every session."""
        return repr(self.record).replace("ExplorerRecord", "Explorer", 1)

    @property
    def selection(self) -> Selection:
        """What is shown now, whoever chose it."""
        chosen = select(
            self.record,
            source=self.source,
            layer=_WORDS.get(self.layer, self.layer),
            head=_WORDS.get(self.head, self.head),
            token=self.token,
        )
        return replace(chosen, unit="step" if self.unit == "step" and chosen.step else "token")

    def select(
        self,
        *,
        source: str = _KEEP,
        layer: LayerChoice | None = _KEEP,
        head: HeadChoice | None = _KEEP,
        token: int | str = _KEEP,
    ) -> None:
        """Change what is shown; what is not named stays.

        Args:
            source: One of ``record.sources``.
            layer: A layer, ``"mean"`` (also ``None``) or ``"max"``.
            head: A head, ``"mean"`` (also ``None``), ``"max"`` or ``"visual"``.
            token: A token's number, ``"answer"`` (its first token) or ``"step 2"`` (all of it).

        Raises:
            ShowError: If there is no such source, layer, head or token; nothing changes then.
        """
        now = self.selection
        given: dict[str, Any] = {"source": source, "layer": layer, "head": head, "token": token}
        wanted = {
            name: getattr(now, name) if value is _KEEP else value for name, value in given.items()
        }
        chosen = traits_of(select(self.record, **wanted))
        if token is _KEEP:
            chosen["unit"] = now.unit
        with self.hold_sync():
            for name in _CHOSEN:
                setattr(self, name, chosen[name])

    @property
    def readings(self) -> list[Reading]:
        """The numbers of the maps shown now, one reading per model."""
        return plane_readings(self.record, self._keys(), self.record.part_of(self.selection))

    def table(self) -> pd.DataFrame:
        """The numbers of every token at the selected source, layer and head.

        Returns:
            One row per model and token: ``model, token, text, step, mass, evidence_share, spread,
            peak``, as in `Reading`; NaN where a token has no map or no evidence box.
        """
        record, parts = self.record, []
        for key in self._keys():
            weights = plane_weights(record, key)
            alone = slice(len(record.tokens))
            stats = plane_stats(record, weights, plane_cells(record, weights), alone)
            columns = {
                "model": record.models[key.model].label,
                "token": range(len(record.tokens)),
                "text": record.tokens,
                "step": record.steps,
            }
            names = ("mass", "evidence_share", "spread", "peak")
            measured = {name: stats[:, at].astype(float) for at, name in enumerate(names)}
            parts.append(pd.DataFrame({**columns, **measured}))
        return pd.concat(parts, ignore_index=True)

    def figure(self) -> Figure:
        """What is shown now as a figure: the maps, and the curves over the text."""
        last = len(self.record.models) - 1
        models = (0,) if not last else (min(self.first, last), min(self.second, last))
        return explorer_figure(self.record, self.selection, models)

    def to_html(
        self, path: str | Path, *, budget: int | None = PAGE_BUDGET, overwrite: bool = False
    ) -> Path:
        """Write the explorer as one page that needs neither kernel nor network.

        Args:
            path: The file to write.
            budget: Bytes of maps, before compression; ``None`` for all. The page says what it
                leaves out.
            overwrite: Replace a file that is there.

        Returns:
            The path.

        Raises:
            RunError: If the file is there and ``overwrite`` is not set.
        """
        path = path_of(path)
        check_free(path, overwrite)
        page = self._page(budget)
        write_bytes(path, page.encode())
        return path

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The live widget, and for those who read without a kernel its still twin."""
        bundle: Any = super()._repr_mimebundle_(**kwargs) or {}
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        data = {**data, "text/plain": repr(self)}
        if self._twin:
            twin = explorer_fragment(self.record, self.selection, look=self._look())
            data["text/html"] = str(twin)
        return data, metadata

    def _page(self, budget: int | None) -> str:
        return explorer_page(self.record, self.selection, budget=budget, look=self._look())

    def _look(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("opacity", "one_scale", "first", "second")}

    def _keys(self) -> list[PlaneKey]:
        """The planes shown, one per model."""
        chosen, record = self.selection, self.record
        models = range(len(record.models))
        if not record.layered(chosen.source):
            return [PlaneKey(chosen.source, model) for model in models]
        return [PlaneKey(chosen.source, model, chosen.layer, chosen.head) for model in models]

    def _send_planes(self, _: object, content: Any, buffers: object) -> None:
        """Answer the script's request for planes in full."""
        if not isinstance(content, dict) or content.get("kind") != "planes":
            return
        keys = [read_key(self.record, str(name)) for name in content.get("names", ())]
        planes = [pack_plane(self.record, key) for key in keys]
        item = self.record.problem.id
        message = {"kind": "planes", "item": item, "index": index_of(planes)}
        self.send(message, buffers=[b"".join(plane.data for plane in planes)])

    @traitlets.validate("source", "layer", "head", "token")
    def _there(self, proposal: Any) -> Any:
        """Refuse what the record does not have, also when it is set from the page."""
        value, name = proposal["value"], proposal["trait"].name
        select(self.record, **{name: _WORDS.get(value, value) if name in _CODED else value})
        return value


class Gallery(Explorer):
    """An explorer of several items: a strip to choose from, and one item at a time.

    An item is measured when it is opened. The page that `to_html` writes holds all of them.

    Attributes:
        items: What the strip shows; see `gallery_spec`.
        item: Place of the item that is shown.
        failed: Why the item that was chosen last is not shown; empty if it is.
    """

    items: Any = traitlets.Dict().tag(sync=True)
    item = traitlets.Int(0).tag(sync=True)
    failed = traitlets.Unicode("").tag(sync=True)

    def __init__(
        self,
        problems: Sequence[Problem],
        record_of: Callable[[Problem], ExplorerRecord],
        *,
        values: pd.DataFrame | None = None,
        budget: int | None = LIVE_BUDGET,
        **start: Any,
    ) -> None:
        """Make the widget, with the first item open.

        Args:
            problems: The items.
            record_of: Measures one, such as `explorer_record` of a model; the last few are kept.
            values: As for `gallery_spec`.
            budget: Bytes of an item's maps to send at first; ``None`` for all.
            **start: As for `Explorer`, for the first item.

        Raises:
            ShowError: As `gallery_spec`.
        """
        items = gallery_spec(problems, values)
        self._record_of = lru_cache(maxsize=4)(lambda at: record_of(problems[at]))
        self._budget = budget
        super().__init__(self._record_of(0), budget=budget, **start)
        self.items = items

    def _page(self, budget: int | None) -> str:
        def record(at: int) -> ExplorerRecord | str:
            try:
                return self._record_of(at)
            except AttCoTError as error:
                return str(error)

        records = map(record, range(len(self.items["entries"])))
        return gallery_page(records, self.items, budget=budget, look=self._look())

    @traitlets.validate("item")
    def _known(self, proposal: Any) -> int:
        at, last = int(proposal["value"]), len(self.items.get("entries", ())) - 1
        if not 0 <= at <= max(last, 0):
            raise ShowError(f"There is no item {at}; the gallery has items 0 to {last}.")
        return at

    @traitlets.observe("item")
    def _open(self, change: Any) -> None:
        try:
            record = self._record_of(change["new"])
        except AttCoTError as error:
            self.failed = str(error)
            return
        first = select(record)
        content = make_content(record, self._budget, first, live=True)
        self.record = record
        with self.hold_sync():
            self.failed, self.spec, self.data = "", content.spec, content.data
            for name, value in traits_of(first).items():
                setattr(self, name, value)
