"""What a processor has made of prompts and pictures, kept for the next time they are encoded."""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

from PIL import Image


class PromptMemory:
    """Processed prompts of one processor, found again by the prompt and the very picture objects.

    What is remembered is shared by all that is encoded from it, so nobody may change it in place.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._kept: dict[tuple[str, ...], tuple[Sequence[Image.Image], Any]] = {}

    def get(self, prompt: str, pictures: Sequence[Image.Image]) -> Any:
        """What was made of them, ``None`` if nothing yet."""
        found = self._kept.get(self._key(prompt, pictures))
        return None if found is None else found[1]

    def put(self, prompt: str, pictures: Sequence[Image.Image], made: Any) -> None:
        """Keep it, and the pictures with it, so that no other object gets their identity."""
        self._kept[self._key(prompt, pictures)] = (tuple(pictures), made)

    @staticmethod
    def _key(prompt: str, pictures: Sequence[Image.Image]) -> tuple[str, ...]:
        return (prompt, *(str(id(picture)) for picture in pictures))


_CURRENT: ContextVar[PromptMemory | None] = ContextVar("prompt memory", default=None)


@contextlib.contextmanager
def remembering(memory: PromptMemory) -> Iterator[None]:
    """Let everything that is encoded inside be looked up in, and added to, a memory.

    Args:
        memory: Of the one processor that is used inside; pictures must not be changed meanwhile.
    """
    before = _CURRENT.set(memory)
    try:
        yield
    finally:
        _CURRENT.reset(before)


def current_memory() -> PromptMemory | None:
    """The memory in use, if any."""
    return _CURRENT.get()
