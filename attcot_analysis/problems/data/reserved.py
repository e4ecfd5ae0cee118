"""Texts that models read as something else than text, so that no question may hold them."""

import re

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.problem import Problem

RESERVED = re.compile(
    # Of chat templates, as in <|im_start|>, <|image_pad|>, <|eot_id|>, <|begin_of_box|>.
    r"<\|[A-Za-z0-9_]{1,40}\|>"
    # Of pictures: LLaVA and Idefics, InternVL, Gemma 3, Pixtral.
    r"|<image>|<video>|<global-img>|<fake_token_around_image>|<row_\d+_col_\d+>"
    r"|</?img>|<IMG_CONTEXT>|<image_soft_token>|<(?:start|end)_of_image>|\[IMG(?:_END|_BREAK)?\]"
    # Of turns: Gemma, Idefics3 and SmolVLM, Mistral.
    r"|<(?:start|end)_of_turn>|<end_of_utterance>|\[/?INST\]|<(?:bos|eos|pad)>"
)
"""Placeholders of pictures and tokens of chat templates, of the families that are supported."""


def check_reserved(problem: Problem) -> None:
    """Refuse a problem whose question or candidates hold such a text.

    What else a model's own tokenizer reserves is refused where a prompt is encoded for it.

    Raises:
        ProblemError: Names the text.
    """
    for what, text in (
        ("question", problem.question),
        *(("candidate", one) for one in problem.candidates),
    ):
        found = RESERVED.search(text)
        if found is not None:
            raise ProblemError(
                f"Problem {problem.id}: a {what} holds {found[0]!r}, which models read as a "
                "picture or as the end of a turn; remove it, pictures are put into the prompt."
            )
