"""One function reads a picture, writes a file, makes text harmless: no module has a second.

Nor one that shortens what an error says to its first line.

What is looked for is what such a function needs: a name that it imports or calls, or the text that
only an escaper holds.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OPENERS = {
    *("Image.open", "ImageFile.Parser", "imageio", "skimage", "imread", "imdecode"),
    *("torchvision.io", "read_image_file", "decode_image", "PIL.Image.open"),
}
ESCAPERS = {
    *("html", "cgi", "xml.sax.saxutils", "markupsafe.escape", "shlex.quote", "urllib.parse.quote"),
    *("bleach", "nh3", "pathvalidate", "slugify", "isprintable"),
}
MARKS = ("&lt;", "&amp;", "&quot;", "textbackslash", "unicode_escape", "\x1b", "\\|", "\u202e")
"""Constants that only an escaper needs."""
PATH_WRITERS = {"write_text", "write_bytes", "touch", "symlink_to", "hardlink_to"}
"""Methods of what they write."""
FILE_WRITERS = {
    *(
        "to_parquet",
        "to_csv",
        "to_feather",
        "to_json",
        "to_excel",
        "to_pickle",
        "savefig",
        "save",
        "savez",
    ),
    *("dump", "save_file", "copyfile", "copytree", "copy2", "mkstemp"),
}
"""Functions of a path, or of an open file."""
HELD = {"BytesIO", "StringIO"}
PARTS = {"part", "working", "buffer"}
"""What is moved to its place when it is complete, and what is in memory."""
ALLOWED = {
    ("attcot_analysis/problems/pictures.py", "opener"),
    ("attcot_analysis/escapes.py", "escaper"),
    ("attcot_analysis/files.py", "writer"),
    ("attcot_analysis/errors.py", "shortener"),
}
"""The one place of each."""
OTHERS = {
    ("attcot_analysis/cli.py", "open(os.devnull, 'w')"): "what nobody reads goes nowhere",
    ("attcot_analysis/show/style.py", "isprintable"): "which signs a font has to have",
    (
        "attcot_analysis/show/report/page.py",
        "drawings.save(Path(figures), overwrite)",
    ): "write_bytes",
    ("attcot_analysis/runs/parts.py", "safetensors.numpy.save(whole)"): "gives bytes",
}
"""What only looks like a second way, and why it is none."""


def root(node: ast.AST) -> str:
    """The variable that an expression such as ``part / "a".parent`` begins with."""
    while not isinstance(node, ast.Name):
        below = next(
            (getattr(node, name) for name in ("value", "left", "func") if hasattr(node, name)), None
        )
        if isinstance(node, ast.Call) and node.args and not isinstance(node.func, ast.Attribute):
            below = node.args[0]
        if not isinstance(below, ast.AST):
            return ""
        node = below
    return node.id


def second_ways(source: str) -> list[tuple[str, int, str]]:
    """What reads pictures, writes files or escapes text by itself: kind, line, what it is."""
    tree = ast.parse(source)
    held = set(PARTS)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            if ast.unparse(node.value.func).rpartition(".")[2] in HELD:
                held |= {root(target) for target in node.targets}
        elif isinstance(node, ast.With):
            for item in node.items:
                if item.optional_vars is not None and root(item.context_expr) in held:
                    held.add(root(item.optional_vars))
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Attribute):
            names = list(dict.fromkeys([ast.unparse(node), node.attr]))
            if node.attr == "splitlines" and root(node) == "error":
                found.append(("shortener", node.lineno, ast.unparse(node)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            short = len(node.value) < 40 and any(mark in node.value for mark in MARKS)
            found += [("escaper", node.lineno, node.value)] if short else []
        found += [("opener", node.lineno, name) for name in names if name in OPENERS]
        found += [("escaper", node.lineno, name) for name in names if name in ESCAPERS]
        if isinstance(node, ast.Call) and writes(node, held):
            found.append(("writer", node.lineno, ast.unparse(node)))
    return found


def writes(call: ast.Call, held: set[str]) -> bool:
    """Whether a call writes a file that is neither a part of `write_whole` nor in memory."""
    name = ast.unparse(call.func).rpartition(".")[2]
    first = call.args[0] if call.args else None
    if name == "open":
        method = isinstance(call.func, ast.Attribute)
        values = [*call.args, *(word.value for word in call.keywords if word.arg == "mode")]
        texts = [one.value for one in values if isinstance(one, ast.Constant)]
        modes = [text for text in texts if isinstance(text, str) and set(text) <= set("rwaxbt+")]
        place = call.func.value if isinstance(call.func, ast.Attribute) else first
        opened = place if method and root(place or call) != "os" else first
        writing = any(set(mode) & set("wax+") for mode in modes)
        return writing and root(opened or call) not in held
    if name in PATH_WRITERS and isinstance(call.func, ast.Attribute):
        return root(call.func.value) not in held and name not in held
    if name not in FILE_WRITERS or first is None:
        return False
    places = (
        call.args[:2] if name in ("dump", "save_file", "copyfile", "copytree", "copy2") else [first]
    )
    return not any(root(place) in held for place in places)


def modules() -> list[str]:
    files = [*ROOT.glob("attcot_analysis/**/*.py"), *ROOT.glob("attcot_lab/**/*.py")]
    return sorted(file.relative_to(ROOT).as_posix() for file in files)


def test_no_module_has_a_second_way():
    found = {
        f"{module}:{line}: {kind} {what}"
        for module in modules()
        for kind, line, what in second_ways((ROOT / module).read_text(encoding="utf-8"))
        if (module, kind) not in ALLOWED and (module, what) not in OTHERS
    }
    assert sorted(found) == []


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("opener", "from PIL import Image\nx = Image.open(path)"),
        ("opener", "import cv2\ncv2.imread(path)"),
        ("opener", "from torchvision.io import decode_image"),
        ("writer", "open(path, 'w')"),
        ("writer", "path.open(mode='ab')"),
        ("writer", "(folder / 'x.json').write_text(text)"),
        ("writer", "Path(name).write_bytes(content)"),
        ("writer", "table.to_csv(path)"),
        ("writer", "table.to_parquet(folder / 'x.parquet', index=False)"),
        ("writer", "figure.savefig(path)"),
        ("writer", "image.save(folder / 'x.png')"),
        ("writer", "json.dump(data, file)"),
        ("writer", "shutil.copyfile(old, new)"),
        ("escaper", "import html"),
        ("escaper", "from markupsafe import escape"),
        ("escaper", "text.replace('<', '&lt;')"),
        ("escaper", "text.encode('unicode_escape')"),
        ("escaper", "text.replace('|', '\\\\|')"),
        ("escaper", "name if name.isprintable() else repr(name)"),
        ("shortener", "reason = (str(error).strip().splitlines() or [''])[0]"),
        (None, "write_whole(path, lambda part: part.write_text(text))"),
        (None, "with part.open('w') as file:\n    json.dump(data, file)"),
        (None, "file = io.BytesIO()\nimage.save(file, 'PNG')\ntable.to_csv(index=False)"),
        (None, "open(path)\npath.open('rb')\ntable.copy()\nre.sub('a', 'b', text)"),
    ],
)
def test_a_second_way_is_found(kind, source):
    assert {found for found, _, _ in second_ways(source)} == ({kind} if kind else set())
