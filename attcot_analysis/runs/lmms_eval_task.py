"""Functions of a task of lmms-eval, as `attcot data lmms-eval` writes them to ``utils.py``.

That file stands alone: whoever runs the task needs lmms-eval, Pillow and that file, not the suite.
The suite's own readers of responses and answers are written in front of these functions.
"""

from pathlib import Path
from typing import Any

from PIL import Image

from attcot_analysis.problems.reading import match_answer, open_answer, stated_answer
from attcot_analysis.problems.response import parse_response

METRIC = {"original": "accuracy", "twin": "follow_twin", "control": "keep_control"}
"""What a right answer on each version of a picture counts for."""


def doc_to_visual(doc: dict[str, Any]) -> list[Image.Image]:
    """The picture, from the folder of this file."""
    with Image.open(Path(__file__).parent / doc["image"]) as image:
        return [image.convert("RGB")]


def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: Any = None) -> str:
    """The question with the instruction that the suite measures under."""
    given = lmms_eval_specific_kwargs or {}
    return f"{given.get('pre_prompt', '')}{doc['question']}{given.get('post_prompt', '')}"


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score one response: the metric of its version, and whether it gives the habitual answer.

    ``unread`` is 1 where no answer can be told: then the other scores say nothing of the model.
    """
    said = read_answer(results[0], doc)
    scores = {METRIC[doc["version"]]: float(said == doc["answer"]), "unread": float(said is None)}
    if doc["version"] == "original" and doc["habitual"]:
        scores["habitual"] = float(said == doc["habitual"])
    return scores


def read_answer(text: str, doc: dict[str, Any]) -> str | None:
    """Which candidate, or which answer to an open question, a response states."""
    stated = stated_answer(parse_response(text), finished=True)
    if stated is None:
        return None
    if doc["candidates"]:
        return match_answer(stated, doc["candidates"], question=doc["question"])
    return open_answer(stated, doc["known"], tolerance=doc["tolerance"])
