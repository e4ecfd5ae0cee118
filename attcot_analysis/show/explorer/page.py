"""The explorer as HTML: one offline page, and a frame for notebooks and reports."""

import base64
import gzip
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from markupsafe import Markup

from attcot_analysis.errors import ShowError
from attcot_analysis.show import html
from attcot_analysis.show.explorer.figure import (
    Content,
    explorer_figure,
    explorer_png,
    make_content,
)
from attcot_analysis.show.explorer.record import (
    ExplorerRecord,
    Selection,
    labels_of,
    select,
    traits_of,
)

PAGE_BUDGET = 24_000_000
"""Bytes of maps in a page of `explorer_page`, before compression."""
FRAME_BUDGET = 260_000
"""Bytes of maps in a frame of `explorer_fragment`, before compression."""

_EXPORT = "export default { render };"

__all__ = [
    "FRAME_BUDGET",
    "PAGE_BUDGET",
    "explorer_figure",
    "explorer_fragment",
    "explorer_page",
    "script_policy",
    "select",
]


def explorer_page(
    record: ExplorerRecord,
    selection: Selection | None = None,
    *,
    title: str | None = None,
    budget: int | None = PAGE_BUDGET,
    look: Mapping[str, Any] | None = None,
) -> str:
    """An explorer as one HTML file that needs neither kernel nor network.

    Its policy lets nothing be loaded and no script run but the explorer's own; every text of
    models and data is data to it.

    Args:
        record: What to explore.
        selection: What to show first; see `select`.
        title: Of the page; default, the item and the models.
        budget: Bytes of maps, before compression; ``None`` for all of them. What does not fit is
            made coarser or left out, and the page says so.
        look: How the explorer is set otherwise: ``opacity``, ``one_scale``, ``first``, ``second``.
    """
    selection = select(record) if selection is None else selection
    name = f"{record.problem.id}: {labels_of(record.models)}" if title is None else title
    content = make_content(record, budget, selection, live=False)
    return _page(content, selection, name, look or {}, "ax-page")


def explorer_fragment(
    record: ExplorerRecord,
    selection: Selection | None = None,
    *,
    budget: int | None = FRAME_BUDGET,
    look: Mapping[str, Any] | None = None,
) -> Markup:
    """An explorer in a frame, for a notebook's stored output or a report.

    A still picture stands before the frame. The frame's script hides it, and fits the frame's
    height; where scripts or frames are stripped, and in print, the picture stays. A frame
    inherits the policy of its page: that must allow `script_policy`, styles and data images.

    Args:
        record: What to explore.
        selection: What to show first; see `select`.
        budget: Bytes of maps, before compression.
        look: See `explorer_page`.
    """
    selection = select(record) if selection is None else selection
    content = make_content(record, budget, selection, live=False)
    name = f"Attention explorer, {record.problem.id}: {labels_of(record.models)}"
    page = _page(content, selection, name, look or {}, "ax-frame-page")
    still = base64.b64encode(explorer_png(record, selection)).decode()
    values = {"name": name, "page": page, "still": still}
    return html.render("explorer/templates/fragment.html.j2", values)


def script_policy() -> str:
    """The source expression that lets the explorer's script run, and no other."""
    return html.script_source(page_script())


def static_text(name: str) -> str:
    """A file of the explorer's: ``explorer.js`` or ``explorer.css``."""
    return html.static_text(f"explorer/static/{name}")


@cache
def page_script() -> str:
    """The script of a page without kernel: the widget's own, started."""
    script = static_text("explorer.js")
    if script.count(_EXPORT) != 1 or "</script" in script.lower():
        raise ShowError(
            f"explorer.js must hold {_EXPORT!r} once and no closing script tag; reinstall the "
            "package."
        )
    lines = (line.strip() for line in script.replace(_EXPORT, "standalone();").splitlines())
    return "\n".join(line for line in lines if line and not line.startswith(("//", "/**")))


def _page(
    content: Content,
    selection: Selection,
    title: str,
    look: Mapping[str, Any],
    kind: str,
) -> str:
    state = {
        "spec": content.spec,
        "opacity": 0.65,
        "one_scale": True,
        "first": 0,
        "second": 1,
        **look,
        **traits_of(selection),
    }
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src {script_policy()}; base-uri 'none'; form-action 'none'"
    )
    # mtime 0: the same bytes at any time.
    packed = base64.b64encode(gzip.compress(content.data, 9, mtime=0)).decode()
    values = {
        "title": title,
        "policy": policy,
        "kind": kind,
        "state": Markup(json_text(state)),
        "data": packed,
        "script": Markup(page_script()),
    }
    return str(html.render("explorer/templates/explorer.html.j2", values))


def json_text(value: object) -> str:
    """JSON that may stand in any element of a page: no tag, comment or entity can end it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
