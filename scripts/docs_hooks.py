"""Hooks of mkdocs: pages from outside docs/, the reference by module, claims, navigation, links.

Pages outside docs/ (README, CONTRIBUTING, ...) are shown where they are, not copied. A link from a
page to something of the repository that is no page (sources, data) becomes plain text.
"""

import ast
import posixpath
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).parents[1]
OUTSIDE: Mapping[str, str] = MappingProxyType(
    {
        "README.md": "index.md",
        "CONTRIBUTING.md": "contributing.md",
        "CHANGELOG.md": "changelog.md",
        "data/README.md": "data.md",
        "benchmarks/README.md": "benchmarks.md",
        "notebooks/README.md": "notebooks.md",
    }
)
"""File of the repository → page of the site."""
ORDER: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Start": ("index.md", "tutorial.md", "recipes.md", "cli.md", "notebooks.md", "glossary.md"),
        "How to": (
            "howto/unsupported-family.md",
            "howto/out-of-memory.md",
            "howto/reading-the-report.md",
            "howto/own-trainer.md",
            "extending.md",
        ),
        "Guides": (
            "measuring.md",
            "checkpoints.md",
            "counterfactuals.md",
            "formats.md",
            "datasets.md",
            "training.md",
            "scale.md",
            "explorer.md",
            "sayo.md",
            "vista.md",
        ),
        "What is measured": (
            "metrics.md",
            "validity.md",
            "statistics.md",
            "claims.md",
            "claims/claims.md",
            "claims/commitment.md",
            "claims/in_distribution.md",
            "papers.md",
            "study.md",
            "study_details.md",
            "testbed.md",
            "bridge.md",
        ),
        "Look up": (
            "errors.md",
            "security.md",
            "data.md",
            "benchmarks.md",
            "contributing.md",
            "changelog.md",
        ),
    }
)
"""Navigation: pages that are there, in this order; others follow under More."""
REFERENCE = "reference"
WORKER = "javascripts/frame-worker.js"
_FOREIGN = re.compile(r'<script src="https://unpkg\.com/iframe-worker/shim">\s*</script>')
_DIALOG = 'data-md-component="search" role="dialog"'
_PIECES = re.compile(
    r"(?P<fence>```.*?```)"
    r"|(?P<image>!?)\[(?P<text>(?:`[^`\n]*`|[^\]`])*)\]\((?P<target>[^)\s]+)\)"
    r"|(?P<code>`[^`\n]*`)",
    re.DOTALL,
)
"""Links, whose text may hold code, and code, which may hold what looks like a link."""


def public_modules() -> dict[str, dict[str, list[str]]]:
    """Page → module → its public names, read from the packages' stubs: a page per room."""
    pages: dict[str, dict[str, list[str]]] = {}
    for package in ("attcot_analysis", "attcot_lab"):
        for path in sorted((ROOT / package).rglob("__init__.pyi")):
            inside = path.parent.relative_to(ROOT).as_posix().replace("/", ".")
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if not isinstance(node, ast.ImportFrom) or node.module is None:
                    continue
                home = f"{inside}.{node.module}"
                page = package if package == "attcot_lab" else home.split(".")[1]
                names = pages.setdefault(page, {}).setdefault(home, [])
                names += [alias.name for alias in node.names if alias.name not in names]
    return pages


def reference_pages() -> Iterator[tuple[str, str]]:
    """Path and text of every page of the reference: one per room, one for the laboratory."""
    for page, modules in public_modules().items():
        parts = [f"# {page}\n"]
        for module, names in modules.items():
            parts += [f"::: {module}.{name}\n" for name in names]
        yield f"{REFERENCE}/{page}.md", "\n".join(parts)


def claims_pages() -> Iterator[tuple[str, str]]:
    """Path and text of a page per grid with every cell of every claim, from the shipped results."""
    from attcot_lab.claims.claim import CLAIMS
    from attcot_lab.claims.page import claims_page
    from attcot_lab.claims.table import of_one_seed, placebo_table, read_claims, read_values

    for grid in ("claims", "commitment", "in_distribution"):
        folder = ROOT / "data" / "results" / grid
        table = read_claims(folder)
        untested = of_one_seed(table)
        tested = [claim for claim in CLAIMS if claim not in untested]
        placebos = placebo_table(read_values(folder), tested)
        yield f"claims/{grid}.md", claims_page(table, placebos=placebos, subtitle=grid)


def navigation(pages: set[str]) -> list[dict[str, list[str]]]:
    """The navigation of those pages that are there."""
    nav = [{title: [one for one in own if one in pages]} for title, own in ORDER.items()]
    nav.append({"Reference": sorted(one for one in pages if one.startswith(f"{REFERENCE}/"))})
    placed = {page for part in nav for own in part.values() for page in own}
    nav.append({"More": sorted(pages - placed)})
    return [part for part in nav if all(part.values())]


def site_link(source: str, target: str, pages: set[str]) -> str | None:
    """A link of a repository file as the site needs it; ``None`` where it leads to no page.

    Args:
        source: The file, relative to the root.
        target: What its link says.
        pages: Pages and pictures of the site, relative to docs/.
    """
    if re.match(r"[a-z]+:|#", target):
        return target
    path, _, anchor = target.partition("#")
    there = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    page = OUTSIDE.get(there, there.removeprefix("docs/") if there.startswith("docs/") else "")
    if page not in pages:
        return None
    own = OUTSIDE.get(source, source.removeprefix("docs/"))
    link = posixpath.relpath(page, posixpath.dirname(own) or ".")
    return f"{link}#{anchor}" if anchor else link


def rewritten(markdown: str, source: str, pages: set[str]) -> str:
    """The text of a repository file with links for the site; code is left alone."""

    def piece(found: re.Match[str]) -> str:
        if found["target"] is None:
            return found[0]
        to = site_link(source, found["target"], pages)
        return found["text"] if to is None else f"{found['image']}[{found['text']}]({to})"

    return _PIECES.sub(piece, markdown)


def local_search(html: str, url: str) -> str:
    """A page whose search has a name, and loads our frame-worker.js, not the theme's foreign one.

    Args:
        html: The page.
        url: Its address in the site, such as ``howto/x.html``.
    """
    own = posixpath.relpath(WORKER, posixpath.dirname(url) or ".")
    named = html.replace(_DIALOG, f'{_DIALOG} aria-label="Search"')
    return _FOREIGN.sub(f'<script src="{own}"></script>', named)


_PAGES: set[str] = set()
_SOURCE_OF = {page: source for source, page in OUTSIDE.items()}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from outside and those of the reference; make the navigation."""
    from mkdocs.structure.files import File

    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for page, text in chain(reference_pages(), claims_pages()):
        files.append(File.generated(config, page, content=text))
    _PAGES.clear()
    _PAGES.update(file.src_uri for file in files if not file.src_uri.startswith("assets/"))
    config.nav = navigation({file.src_uri for file in files.documentation_pages()})
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let the links of a page lead to pages."""
    uri = page.file.src_uri
    # What is asked in plain words is answered by the guides.
    guides = {one for part in ("Start", "How to", "Guides") for one in ORDER[part]}
    page.meta.setdefault("search", {"boost": 10 if uri in guides else 1})
    if uri.startswith((f"{REFERENCE}/", "claims/")):
        return markdown
    return rewritten(markdown, _SOURCE_OF.get(uri, f"docs/{uri}"), _PAGES)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Let the search of a page opened from a folder work without a network."""
    return local_search(output, page.file.url)


def on_post_template(output_content: str, template_name: str, **_: Any) -> str:
    """The same for pages that are none of ours, such as 404.html."""
    return local_search(output_content, template_name)
