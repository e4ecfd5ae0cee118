"""Text of models, data sets and files from strangers, made harmless: one function for each medium.

What jinja2 fills into a page of `attcot_analysis.show.html` goes through `for_xml` and is escaped
there, by itself.
"""

import hashlib
import re

from markupsafe import escape

_UNSEEN = "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufff9-\ufffb"
"""What turns the direction of writing, is not seen, begins a line, or is half a character."""
_LINES = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_UNSEEN}]")
_LINE = re.compile(f"[\x00-\x1f\x7f-\x9f{_UNSEEN}]")
_NOT_XML = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_LONGEST = 3000
"""Signs of a sentence; what is longer quotes what nobody reads, such as a picture in base64."""

_MARKDOWN = re.compile(r"([\\`*\[\]|$#~]|(?<!\w)_|_(?!\w))")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
_FORMULA = re.compile(r"\s*[=+\-@\t\r]")
_SAFE = re.compile(
    r"(?!.*-[0-9a-f]{16}$)(?!(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$))[a-z0-9][a-z0-9._-]{0,99}",
    re.ASCII,
)
"""What names a file on every disk, those included that take A for a; no digest of ours."""


def for_terminal(text: object) -> str:
    """Text to print: lines and tabs stay, signs that steer a terminal are shown by their code."""
    return _LINES.sub(_shown, str(text))


def for_sentence(text: object) -> str:
    """Text on one line, shortened in its middle where it is very long."""
    line = _LINE.sub(_shown, str(text))
    if len(line) <= _LONGEST:
        return line
    return f"{line[: _LONGEST - 1000]} [...] {line[-900:]}"


def for_xml(text: str) -> str:
    """Text without what no XML document (SVG) may hold, and what turns the direction of writing.

    What is special in XML is not escaped.
    """
    return _NOT_XML.sub("", text)


def for_html(text: object) -> str:
    """Text in a page, or in an attribute between quotes."""
    return str(escape(for_xml(str(text))))


def for_markdown(text: object) -> str:
    """Text on one line of Markdown, in a cell of a table too: neither HTML nor markup in it."""
    marked = _MARKDOWN.sub(r"\\\1", _LINE.sub(" ", str(text)))
    return marked.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def for_latex(text: object) -> str:
    """Text on one line of LaTeX, outside of formulas."""
    return "".join(_LATEX.get(sign, sign) for sign in _LINE.sub(" ", str(text)))


def for_csv(text: object) -> str:
    """A text cell that no spreadsheet takes for a formula; numbers are not to be passed."""
    cell = _LINES.sub(_shown, str(text))
    return f"'{cell}" if _FORMULA.match(cell) else cell


def for_file_name(text: object, reserved: tuple[str, ...] = ()) -> str:
    """A file name (without ending) for any text; two different texts have two different names.

    Args:
        text: What the file is of.
        reserved: Endings that mean something else, so that no name has them.
    """
    given = str(text)
    if _SAFE.fullmatch(given) and not given.endswith((".", *reserved)):
        return given
    digest = hashlib.sha256(given.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    plain = re.sub(r"[^a-z0-9._-]+", "-", given[:200].lower()).strip("._-")[:60]
    return f"{plain or 'x'}-{digest}"


def _shown(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
