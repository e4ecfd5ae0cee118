"""The script and the style sheets that the studio's widget and its page share."""

from functools import cache

from attcot_analysis.errors import ShowError
from attcot_analysis.show import html
from attcot_analysis.show.explorer.page import static_text

_EXPORTS = "export default { render };", "export default { render: renderStudio };"


@cache
def studio_script(start: str | None = None) -> str:
    """The studio's script behind the explorer's, as one module.

    Args:
        start: What a page runs instead of exporting what a widget renders.
    """
    scripts = static_text("explorer.js"), _own("studio.js")
    if any(text.count(export) != 1 for text, export in zip(scripts, _EXPORTS, strict=True)):
        raise ShowError(f"The scripts must hold {' and '.join(_EXPORTS)} once; reinstall.")
    explorer, own = scripts
    if start is not None:
        own = own.replace(_EXPORTS[1], start)
    return explorer.replace(_EXPORTS[0], "") + own


def studio_style() -> str:
    """The style sheets of explorer and studio."""
    return static_text("explorer.css") + _own("studio.css")


def _own(name: str) -> str:
    return html.static_text(f"studio/static/{name}")
