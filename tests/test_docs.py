"""The documentation: links lead somewhere, generated pages are up to date, quoted errors exist."""

import ast
import importlib.util
import re
import subprocess
import sys
from inspect import ismodule
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

import attcot_analysis
import attcot_lab
from attcot_analysis.stats.catalogue import METRICS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGES = ("attcot_analysis", "attcot_lab")


def script(name: str):
    spec = importlib.util.spec_from_file_location(f"attcot_{name}", ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


HOOKS = script("docs_hooks")
SOURCES = sorted(
    {path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md")} | set(HOOKS.OUTSIDE)
)
"""Every file that is a page of the site."""


def text_of(source: str) -> str:
    return (ROOT / source).read_text(encoding="utf-8")


def without_code(markdown: str) -> str:
    return re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)


def anchors(markdown: str) -> set[str]:
    """What can be linked to in a page: its headings, as the site and GitHub name them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", without_code(markdown), flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        kept = re.sub(r"[^\w\- ]", "", plain.lower()).strip()
        found.add(re.sub(r"[\s-]+", "-", kept))
    return found


@pytest.mark.parametrize("source", SOURCES)
def test_links_lead_somewhere(source):
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text_of(source))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (ROOT / source).parent / path if path else ROOT / source
        is_page = bool(anchor) and there.suffix == ".md" and there.is_file()
        named = not is_page or anchor in anchors(there.read_text("utf-8"))
        if not there.exists() or not named:
            wrong.append(target)
    assert wrong == []


def test_the_link_check_finds_what_leads_nowhere(tmp_path):
    assert anchors("# A `b` and [c](d)!\n```\n# no\n```\n## e-f  g") == {"a-b-and-c", "e-f-g"}


# --- the site -----------------------------------------------------------------------------------


def test_links_of_the_site_stay_in_it_or_become_text():
    pages = {"index.md", "measuring.md", "howto/x.md", "images/report.png", "contributing.md"}
    for source, target, expected in (
        ("README.md", "docs/measuring.md#a", "measuring.md#a"),
        ("README.md", "docs/images/report.png", "images/report.png"),
        ("README.md", "attcot_analysis/problems", None),
        ("docs/howto/x.md", "../../README.md", "../index.md"),
        ("docs/howto/x.md", "../measuring.md", "../measuring.md"),
        ("docs/measuring.md", "../CONTRIBUTING.md#notebooks", "contributing.md#notebooks"),
        ("docs/measuring.md", "../data/results", None),
        ("docs/measuring.md", "https://example.org", "https://example.org"),
        ("docs/measuring.md", "#below", "#below"),
    ):
        assert HOOKS.site_link(source, target, pages) == expected, target
    text = "[`a`](attcot_analysis) `[x](y)` [m](docs/measuring.md)\n```\n[z](q)\n```"
    kept = "`a` `[x](y)` [m](measuring.md)\n```\n[z](q)\n```"
    assert HOOKS.rewritten(text, "README.md", pages) == kept


def test_a_new_page_gets_a_place_by_itself():
    nav = HOOKS.navigation({"index.md", "datasets.md", "brand-new.md", "reference/models.md"})
    assert nav == [
        {"Start": ["index.md"]},
        {"Guides": ["datasets.md"]},
        {"Reference": ["reference/models.md"]},
        {"More": ["brand-new.md"]},
    ]


def test_the_reference_names_every_public_name_once():
    named = re.findall(
        r"^::: (attcot_\S+)$",
        "\n".join(text for _, text in HOOKS.reference_pages()),
        flags=re.MULTILINE,
    )
    assert len(named) == len(set(named))
    assert {name.split(".")[0] for name in named} == set(PACKAGES)
    for package in (attcot_analysis, attcot_lab):
        documented = {name.rsplit(".", 1)[1] for name in named if name.startswith(package.__name__)}
        names = {name for name in package.__all__ if not ismodule(getattr(package, name))}
        assert names <= documented


def test_the_reference_can_be_read_from_the_sources():
    """The site's tool reads definitions, assignments and imports, but no unpacking."""
    for _, text in HOOKS.reference_pages():
        for dotted in re.findall(r"^::: (attcot_\S+)$", text, flags=re.MULTILINE):
            module, _, name = dotted.rpartition(".")
            path = ROOT.joinpath(*module.split("."))
            path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            names = set()
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    names.add(node.name)
                elif isinstance(node, ast.Import | ast.ImportFrom):
                    names |= {alias.asname or alias.name for alias in node.names}
                elif isinstance(node, ast.Assign | ast.AnnAssign):
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    names |= {target.id for target in targets if isinstance(target, ast.Name)}
            assert name in names, dotted


def test_the_site_asks_for_nothing_over_the_network():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert settings["theme"]["font"] is False and "offline" in settings["plugins"]
    assert settings["strict"] is True and "repo_url" not in settings
    assert "extra_javascript" not in settings
    assert all((DOCS / name).is_file() for name in settings["extra_css"])


def test_search_from_a_folder_loads_our_own_worker():
    foreign = '<head><script src="https://unpkg.com/iframe-worker/shim"></script></head>'
    assert HOOKS.local_search(foreign, "howto/x.html") == (
        '<head><script src="../javascripts/frame-worker.js"></script></head>'
    )
    assert '"javascripts/frame-worker.js"' in HOOKS.local_search(foreign, "index.html")
    assert (DOCS / HOOKS.WORKER).is_file()


def test_a_site_is_checked_for_links_and_loads(tmp_path):
    check = script("check_site")
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "search_index.json").write_text("{}")
    (tmp_path / "a.html").write_text('<h1 id="top">A</h1><a href="index.html#there">b</a>')
    good = '<p id="there"></p><a href="a.html#top">a</a><a href="https://example.org">out</a>'
    (tmp_path / "index.html").write_text(good)
    assert check.faults(tmp_path) == [] and check.main(str(tmp_path)) == 0
    (tmp_path / "index.html").write_text(
        '<a href="b.html">b</a><a href="a.html#x">x</a><script src="https://cdn.org/x.js"></script>'
    )
    found = check.faults(tmp_path)
    assert len(found) == 4 and check.main(str(tmp_path)) == 1
    assert any("loads https://cdn.org/x.js" in fault for fault in found)


# --- pages made from the code -------------------------------------------------------------------


def test_every_metric_has_a_formula_a_function_and_a_picture():
    pictures = {path.stem for path in (DOCS / "images" / "measures").glob("*.svg")}
    public = {*attcot_analysis.__all__, *attcot_analysis.measures.__all__, *attcot_lab.__all__}
    for name, metric in METRICS.items():
        assert metric.formula.strip() and metric.picture in pictures, name
        assert metric.function in public, name


def test_the_pages_are_those_that_the_code_makes():
    pages = script("write_docs").PAGES
    made = {"checkpoints", "claims", "metrics", "papers", "formats", "statistics"}
    assert set(pages) == {f"{name}.md" for name in made}
    for name, page in pages.items():
        assert text_of(f"docs/{name}") == page(), "run python scripts/write_docs.py"


def test_the_page_says_all_that_the_catalogue_says():
    page = text_of("docs/metrics.md")
    for metric in METRICS.values():
        own = page.split(f"### {metric.name}\n")[1].split("\n### ")[0]
        for said in (
            metric.title,
            metric.definition,
            metric.falsifier,
            metric.source,
            metric.formula,
        ):
            assert said in own, metric.name


def test_pictures_are_those_that_the_code_draws(tmp_path):
    pictures = script("measure_pictures")
    assert {path.stem for path in (DOCS / "images" / "measures").glob("*.svg")} == set(
        pictures.DRAWN
    )
    for name, drawn in script("format_pictures").drawn().items():
        kept = text_of(f"docs/images/formats/{name}.svg")
        assert kept == drawn, "run python scripts/write_docs.py --pictures"


# --- errors -------------------------------------------------------------------------------------


def messages_in_the_sources() -> str:
    """Every text of the sources, what is put in replaced by …, one per line."""
    found = []
    for path in [p for top in PACKAGES for p in (ROOT / top).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [
                    part.value if isinstance(part, ast.Constant) else "…" for part in node.values
                ]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    for path in [p for top in PACKAGES for p in (ROOT / top).rglob("*.yaml")]:
        text = " ".join(path.read_text(encoding="utf-8").split())
        found.append(re.sub(r"\{[^{}]*\}", "…", text))
    return "\n".join(found)


def test_every_quoted_error_is_raised_somewhere():
    rows = [line for line in text_of("docs/errors.md").splitlines() if line.startswith("| `")]
    quoted = [row.split("|")[1].strip().strip("`").strip("…").strip() for row in rows]
    assert len(quoted) > 25 and all(len(one) > 15 for one in quoted)
    there = messages_in_the_sources()
    assert [one for one in quoted if one not in there] == []


def test_commands_in_the_docs_are_commands():
    """Every `attcot COMMAND --option` in a block of the docs is understood by the parser."""
    from attcot_analysis.cli import command_line

    wrong = []
    for source in SOURCES:
        for block in re.findall(r"```bash\n(.*?)```", text_of(source), flags=re.DOTALL):
            for line in block.splitlines():
                words = line.split("#")[0].split()
                if len(words) < 2 or words[0] != "attcot" or words[1].startswith("-"):
                    continue
                command, names = command_line(), words[1:]
                while hasattr(command, "commands") and names:
                    command = command.commands.get(names.pop(0))
                if command is None:
                    wrong.append((source, line))
                    continue
                options = {name for param in command.params for name in param.opts}
                asked = {word for word in names if re.fullmatch(r"--[a-z-]+", word)}
                wrong += [(source, line, option) for option in asked - options]
    assert wrong == []


def test_a_heading_stands_behind_a_blank_line():
    """Else the site takes it for a row of the table before it, and links to it lead nowhere."""
    stuck, headings = [], 0
    for page in sorted(DOCS.glob("*.md")):
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        lines = ["", *text.splitlines()]
        for before, line in pairwise(lines):
            if re.match(r"#{1,6} ", line):
                headings += 1
                stuck += [(page.name, line)] * bool(before.strip())
    assert headings > 100 and stuck == []


def test_the_top_of_the_package_is_read_without_importing_it():
    code = "import sys; sys.path.insert(0, 'scripts'); import docs_hooks as d\n"
    code += "list(d.reference_pages()); print({'torch', 'attcot_analysis'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
