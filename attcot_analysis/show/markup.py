"""Build HTML in which every text is escaped unless it was built here."""

import html
from collections.abc import Iterable

_VOID = frozenset({"br", "img", "link", "meta"})


class Markup(str):
    """Text that is HTML already; only `el` and `trusted` make it."""

    __slots__ = ()


def trusted(text: str) -> Markup:
    """Mark text as HTML. Only for text written in this package, never for data."""
    return Markup(text)


def render(child: object) -> Markup:
    """Turn a child into HTML: `Markup` stays, ``None`` is nothing, lists join, text is escaped."""
    if child is None:
        return Markup("")
    if isinstance(child, Markup):
        return child
    if isinstance(child, str):
        return Markup(html.escape(child))
    if isinstance(child, Iterable):
        return Markup("".join(render(part) for part in child))
    return Markup(html.escape(str(child)))


def el(name: str, /, *children: object, **attributes: str | int | bool | None) -> Markup:
    """Make an element; children and attribute values are escaped.

    Args:
        name: Tag name.
        *children: Text, `Markup`, lists of these, or ``None``.
        **attributes: A trailing ``_`` is dropped and ``_`` becomes ``-`` (``class_``,
            ``aria_label``); ``True`` gives a bare attribute, ``None`` and ``False`` none.
    """
    parts = [name]
    for key, value in attributes.items():
        written = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(written)
        elif value is not None and value is not False:
            parts.append(f'{written}="{html.escape(str(value))}"')
    opening = f"<{' '.join(parts)}>"
    if name in _VOID:
        return Markup(opening)
    return Markup(f"{opening}{render(children)}</{name}>")
