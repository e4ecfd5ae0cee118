"""`Studio`: the studio in JupyterLab."""

import threading
from typing import Any

import anywidget
import traitlets

from attcot_analysis.models import Mllm
from attcot_analysis.show.photo import PictureLike
from attcot_analysis.show.studio.parts import studio_script, studio_style
from attcot_analysis.show.studio.session import StudioSession


class Studio(anywidget.AnyWidget):
    """The studio as a widget; it needs its kernel.

    Attributes:
        session: What it does with the model: ``session.asked.look`` is the last question's `Look`,
            with its table, ``session.record`` what is on the screen.
    """

    _esm = studio_script()
    _css = studio_style()
    about = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        mllm: Mllm,
        *,
        image: PictureLike | None = None,
        question: str = "",
        max_new_tokens: int = 512,
    ) -> None:
        """Make the widget; see `studio`."""
        self.session = StudioSession(
            mllm, image=image, question=question, max_new_tokens=max_new_tokens
        )
        super().__init__(about=self.session.about())
        self.on_msg(self._heard)

    def __repr__(self) -> str:
        """Say whose studio it is, the same in every session."""
        return f"Studio({self.about['model']})"

    def _heard(self, _: object, message: Any, buffers: Any) -> None:
        """Work on a thread of its own, so that Stop is heard while the model writes."""
        if not isinstance(message, dict):
            return
        data = bytes(buffers[0]) if buffers else b""
        args = message, data, lambda event, own: self.send(dict(event), buffers=[own])
        threading.Thread(target=self.session.handle, args=args, daemon=True).start()
