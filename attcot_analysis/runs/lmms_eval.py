"""A problem folder as a task of lmms-eval, so that its users can run our items.

Layout of the task's folder::

    <name>.yaml       the task
    utils.py          its functions; stands alone
    items.jsonl       one object per item and version of its picture
    images/           the pictures

Scored are accuracy, how often the answer follows a twin (``follow_twin``) and stays on a control
edit (``keep_control``), how often it is the habitual one, and how often no answer can be told
(``unread``). Attention and forced answers need the model's inside: for these, measure its responses
here (``attcot measure --generations``).
"""

import ast
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from attcot_analysis.errors import RunError
from attcot_analysis.runs import lmms_eval_task
from attcot_analysis.models import PROMPTS
from attcot_analysis.problems import Problem, phrases as numbers, options, phrases, reading, response

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", re.ASCII)
_VERSION = 1.0

_YAML = """\
# Written by attcot data lmms-eval; docs/datasets.md of Att-CoT Analysis says what is scored.
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {items}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: answer
process_results: !function utils.process_results
generation_kwargs:
  max_new_tokens: {max_new_tokens}
  temperature: 0
  do_sample: false
lmms_eval_specific_kwargs:
  default:
    pre_prompt: ""
    post_prompt: {prompt}
metric_list:
{metrics}
metadata:
  - version: {version}
"""
_METRIC = """\
  - metric: {metric}
    aggregation: mean
    higher_is_better: {better}
"""


def export_task(
    problems: Sequence[Problem], folder: str | Path, name: str, *, max_new_tokens: int = 512
) -> Path:
    """Write problems as a task of lmms-eval.

    Args:
        problems: At least one.
        folder: New or empty.
        name: Of the task.
        max_new_tokens: Length limit of a response.

    Returns:
        The task's YAML file. It names the items by their full path: export again after moving
        the folder.

    Raises:
        RunError: If the folder holds something, the name is none, or there are no problems.
    """
    target = Path(folder).resolve()
    if not problems:
        raise RunError("No problems were given to export; give at least one.")
    if not _NAME.fullmatch(name):
        raise RunError(f"{name!r} cannot name a task; use letters, digits, '_' and '-'.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunError(f"{folder} holds something already; choose a new folder for the task.")
    (target / "images").mkdir(parents=True)
    items = []
    for number, problem in enumerate(problems):
        for version, image, answer in _versions(problem):
            file = f"images/{number:06d}-{version}.png"
            image.save(target / file)
            items.append(_item(problem, version, file, answer))
    lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    (target / "items.jsonl").write_text(lines, encoding="utf-8")
    (target / "utils.py").write_text(_standalone(), encoding="utf-8")
    metrics = [lmms_eval_task.METRIC[v] for v in dict.fromkeys(item["version"] for item in items)]
    metrics += ["unread"]
    metrics += ["habitual"] if any(item["habitual"] for item in items) else []
    path = target / f"{name}.yaml"
    text = _YAML.format(
        name=name,
        items=json.dumps(str(target / "items.jsonl")),
        max_new_tokens=max_new_tokens,
        prompt=json.dumps("\n" + PROMPTS["cot"]),
        metrics="".join(
            _METRIC.format(metric=metric, better=str(metric not in ("habitual", "unread")).lower())
            for metric in metrics
        ).rstrip(),
        version=_VERSION,
    )
    path.write_text(text, encoding="utf-8")
    return path


def _standalone() -> str:
    """The task's functions with the readers they use, in one source without the suite."""
    parts = []
    for module in (response, numbers, phrases, options, reading, lmms_eval_task):
        source = Path(str(module.__file__)).read_text(encoding="utf-8")
        lines = source.splitlines(keepends=True)
        for node in ast.parse(source).body:
            own = isinstance(node, ast.ImportFrom) and str(node.module).startswith("attcot_")
            if own or ast.unparse(node).startswith("if TYPE_CHECKING"):
                lines[node.lineno - 1 : node.end_lineno] = [""] * len(
                    lines[node.lineno - 1 : node.end_lineno]
                )
        parts.append("".join(lines))
    return "\n\n".join(parts)


def _versions(problem: Problem) -> Iterator[tuple[str, Image.Image, str]]:
    yield "original", problem.image, problem.answer
    for edit in (problem.twin, problem.control):
        if edit is not None:
            yield edit.kind, edit.image, edit.answer


def _item(problem: Problem, version: str, file: str, answer: str) -> dict[str, Any]:
    """One line; every field is always there, so that all lines have one schema."""
    edits = [edit.answer for edit in (problem.twin, problem.control) if edit is not None]
    known = [problem.answer, *edits, *([problem.habitual] if problem.habitual else [])]
    return {
        "id": problem.id,
        "version": version,
        "image": file,
        "question": problem.question,
        "candidates": list(problem.candidates),
        "answer": answer,
        "habitual": problem.habitual or "",
        "known": known,
        "tolerance": problem.tolerance,
    }
