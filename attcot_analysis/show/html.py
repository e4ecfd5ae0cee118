"""Pages from Jinja2 templates: every text is escaped, and a name that is missing is an error."""

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from attcot_analysis.escapes import for_xml
from attcot_analysis.show.style import (
    BOX_COLOR,
    arm_label,
    arm_style,
    capital,
    format_interval,
    format_number,
    order_arms,
    page_color,
)


def render(template: str, values: Mapping[str, Any]) -> Markup:
    """Fill a template of this package.

    Args:
        template: Its path below ``show``, such as ``"report/templates/report.html.j2"``.
        values: What it writes. Text is escaped, `markupsafe.Markup` is not: only text written in
            this package may be that, never data.

    Raises:
        jinja2.UndefinedError: If the template uses a name that is not there.
    """
    return Markup(_environment().get_template(template).render(values))


@cache
def static_text(path: str) -> str:
    """A style sheet or script of this package, by its path below ``show``."""
    return (files("attcot_analysis.show") / path).read_text(encoding="utf-8")


def script_source(script: str) -> str:
    """The source expression of a Content-Security-Policy that lets this script run."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("attcot_analysis.show", ""),
        autoescape=True,
        finalize=lambda value: for_xml(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "capital": capital,
        "label": arm_label,
        "number": format_number,
        "order_arms": order_arms,
        "slug": lambda name: re.sub(r"[\W_]", "-", name),
    }
    environment.globals |= {
        "arm_color": lambda arm: page_color(arm_style(arm).color),
        "box_color": BOX_COLOR,
        "interval": format_interval,
        "static_text": lambda path: Markup(static_text(path)),
    }
    return environment
