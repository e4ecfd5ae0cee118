"""`PromptCache`: prompts as a processor has prepared them, kept for the next time."""

import hashlib
from collections.abc import Sequence
from typing import Any

from PIL import Image


class PromptCache:
    """Processed prompts of one processor, looked up by the prompt and its pictures' pixels.

    Given to a model (``dataclasses.replace(mllm, cache=PromptCache())``) it is used wherever that
    model's inputs are encoded. It grows with every new prompt, and what it returns is shared by
    all that is encoded from it, so nobody may change it in place.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._kept: dict[tuple[object, ...], Any] = {}

    def get(self, prompt: str, pictures: Sequence[Image.Image]) -> Any:
        """What was kept for them, ``None`` if nothing yet."""
        return self._kept.get(self._key(prompt, pictures))

    def put(self, prompt: str, pictures: Sequence[Image.Image], prepared: Any) -> None:
        """Keep what a processor has made of them."""
        self._kept[self._key(prompt, pictures)] = prepared

    def clear(self) -> None:
        """Let everything go."""
        self._kept.clear()

    @staticmethod
    def _key(prompt: str, pictures: Sequence[Image.Image]) -> tuple[object, ...]:
        pixels = ((one.mode, one.size, hashlib.blake2b(one.tobytes()).digest()) for one in pictures)
        return (prompt, *pixels)
