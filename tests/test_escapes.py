"""Text from strangers in every medium: each escaper on what its medium would act on."""

import ast
import csv
import html
import io
import re
import sys
import warnings
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attcot_analysis import cli
from attcot_analysis.errors import NoMemoryError, ProblemError
from attcot_analysis.escapes import (
    for_csv,
    for_file_name,
    for_html,
    for_latex,
    for_markdown,
    for_sentence,
    for_terminal,
    for_xml,
)
from attcot_analysis.show import html as page

ROOT = Path(__file__).parents[1]
ATTACKS = [
    "\x1b]0;title\x07\x1b[31mred\x1b[0m\x9b2J",
    "a\rb\x08\x7f\x00",
    "\u202egnp.exe\u2066x\u2069\u200b\ufeff",
    "<script>alert(1)</script>&lt;<!--",
    "![x](http://a/b) [l](javascript:x) `code` **b** | cell |\n# head\n> quote",
    r"$x^2$ \input{/etc/passwd} 100 % & # _ {} ~",
    "=cmd|' /C calc'!A0",
    "+1\t-2",
    "@SUM(A1)",
    "half \ud800 pair",
    "../../etc/passwd",
    "CON.",
    "",
    "A" * 20_000,
    "umlaut ä, 漢字, \U0001f600, क\u094dष",
]
TEXTS = st.sampled_from(ATTACKS) | st.text(
    st.characters() | st.sampled_from("\x1b\r\n\x00\u202e<>&|$\\`*=+-@\ud800./"), max_size=30
)
fuzz = settings(max_examples=150, deadline=None, derandomize=True, database=None)
STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


@fuzz
@given(TEXTS)
def test_nothing_steers_a_terminal(text):
    assert not STEERING.search(for_terminal(text))
    assert for_terminal(for_terminal(text)) == for_terminal(text)
    for_terminal(text).encode()


@fuzz
@given(TEXTS)
def test_a_sentence_is_one_line_of_bounded_length(text):
    for kind in (ProblemError, NoMemoryError):
        said = str(kind(f"picture {text} does not exist; check the path."))
        assert len(said.splitlines()) == 1 and len(said) < 3000
        assert said.startswith("picture ") and said.endswith("check the path.")
        assert not STEERING.search(said)


@fuzz
@given(TEXTS)
def test_any_text_is_xml(text):
    escaped = for_xml(text).replace("&", "&amp;").replace("<", "&lt;")
    ElementTree.fromstring(f"<t>{escaped}</t>".encode())
    assert html.unescape(for_html(text)) == for_xml(text) and not set(for_html(text)) & set("<>\"'")


@fuzz
@given(TEXTS)
def test_what_a_page_is_filled_with_steers_nothing(text):
    filled = page._environment().from_string('<p title="{{ x }}">{{ x }}</p>').render(x=text)
    assert filled == f'<p title="{for_html(text)}">{for_html(text)}</p>'
    assert not re.search(
        "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", filled
    )


@fuzz
@given(TEXTS)
def test_markdown_and_latex_hold_no_markup(text):
    marked = for_markdown(text)
    assert "<" not in marked and ">" not in marked and len(marked.splitlines()) <= 1
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*\[\]$]", marked)
    typeset = for_latex(text)
    for command in (r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}"):
        typeset = typeset.replace(command, "")
    typeset = re.sub(r"\\text(less|greater|bar)\{\}", "", typeset)
    assert not re.search(r"(?<!\\)[&%$#_{}~^<>|]|\\(?![&%$#_{}])", typeset)


@fuzz
@given(TEXTS)
def test_a_spreadsheet_sees_no_formula(text):
    held = io.StringIO()
    csv.writer(held).writerow([for_csv(text), "next"])
    (row,) = csv.reader(io.StringIO(held.getvalue()))
    assert row[1:] == ["next"] and not row[0].lstrip().startswith(("=", "+", "-", "@"))


@fuzz
@given(TEXTS, TEXTS)
def test_a_file_name_is_one_and_tells_texts_apart(text, other):
    name = for_file_name(text)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) and not name.endswith(".")
    assert (name == for_file_name(other)) == (text == other)


@pytest.mark.parametrize("text", ["item-7", "a.b_c", "2", "x" * 100])
def test_what_is_harmless_stays(text):
    assert (
        for_terminal(text)
        == for_sentence(text)
        == for_xml(text)
        == for_latex(text.replace("_", "-")).replace("-", "_" if "_" in text else "-")
        == for_file_name(text)
    )
    assert for_terminal("two\nlines\tof 漢字") == "two\nlines\tof 漢字"
    assert for_markdown("qwen2_5_vl") == "qwen2_5_vl" and for_csv("red") == "red"


def test_what_a_command_prints_steers_nothing(capsys):
    cli.say(f"Kept as metadata: {ATTACKS[0]}")
    assert "\x1b" not in capsys.readouterr().out
    assert cli.main(["report", f"no{ATTACKS[0]}{ATTACKS[2]}"]) == cli.Exit.ERROR
    said = capsys.readouterr().err
    assert said.startswith("attcot: ") and not STEERING.search(said)
    warned = warnings.formatwarning(UserWarning(ATTACKS[0]), UserWarning, "file", 1)
    assert "\x1b" not in warned and len(warned.splitlines()) == 1


def calls(file, name):
    """Where a file calls something of that name, such as ``print`` or ``Image.open``."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == name
    ]


def test_a_megabyte_is_shortened_where_it_is_said_and_kept_where_it_is_written():
    long = "A" * 1_000_000
    assert len(for_sentence(long)) < 3000 and len(for_file_name(long)) < 100
    for kept in (for_terminal, for_xml, for_markdown, for_latex, for_csv):
        assert kept(long) == long


def test_only_one_function_prints():
    files = [*ROOT.glob("attcot_analysis/**/*.py"), ROOT / "attcot_lab/cli.py"]
    found = {str(file.relative_to(ROOT)): len(calls(file, "print")) for file in files}
    assert {file: n for file, n in found.items() if n} == {"attcot_analysis/cli.py": 1}


def test_a_command_runs_where_output_is_closed(monkeypatch, tmp_path):
    """As a shell's ``>&- 2>&-`` leaves it."""
    (tmp_path / "own.jsonl").write_text("{}")
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert cli.main(["data", "check", str(tmp_path / "own.jsonl")]) == cli.Exit.DOES_NOT_HOLD
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert cli.main(["report", "none"]) == cli.Exit.ERROR
