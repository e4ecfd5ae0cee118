"""The studio: ask a model about a picture, watch it write, and change what it sees."""

from typing import TYPE_CHECKING

from attcot_analysis.errors import notebook_packages
from attcot_analysis.models import Mllm

if TYPE_CHECKING:
    from attcot_analysis.show.photo import PictureLike
    from attcot_analysis.show.studio.widget import Studio


def studio(
    mllm: Mllm,
    *,
    image: "PictureLike | None" = None,
    question: str = "",
    max_new_tokens: int = 512,
) -> "Studio":
    """Ask a model about pictures in JupyterLab, watch it write, and change what it sees.

    Drop a picture, type a question: tokens arrive with their maps. Then an answer can be forced
    after any step, and a region of the picture painted over: answer, curve and maps of the changed
    picture stand beside the original's. ``attcot studio MODEL`` is the same as a page of its own.

    Args:
        mllm: The model.
        image: A picture to begin with: a path, a PIL image, or an array of bytes.
        question: A question to begin with.
        max_new_tokens: Length limit of a response.

    Raises:
        ShowError: If anywidget is missing.
        ProblemError: If the picture cannot be read.
    """
    with notebook_packages("studio", "use `attcot studio MODEL`"):
        from attcot_analysis.show.studio.widget import Studio
    return Studio(mllm, image=image, question=question, max_new_tokens=max_new_tokens)
