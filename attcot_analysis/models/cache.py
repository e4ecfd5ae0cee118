"""`PromptCache`: prompts as a processor has prepared them, kept for the next time."""

import contextlib
import copy
import functools
import hashlib
import weakref
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeVar

import torch
from PIL import Image

from attcot_analysis.problems.pictures import StoredPicture

Made = TypeVar("Made")

_RESPONSES = 4096
"""How many responses are kept: where a cache lives long, prompts recur and responses do not."""


class PromptCache:
    """What is made of the prompts, pictures and responses of one processor, each made once.

    Prompts are looked up by their text and their pictures' pixels. Given to a model
    (``dataclasses.replace(mllm, cache=PromptCache())``) it is used wherever that model's inputs are
    encoded. It grows with every new prompt, and what it returns is shared by all that is encoded
    from it, so nobody may change it in place.
    """

    def __init__(self, *, still: bool = False) -> None:
        """Start empty.

        Args:
            still: Whether no picture changes in place while the cache lives, so that the pixels
                of each need be looked at once only.
        """
        self.still = still
        self._prompts: dict[Hashable, Any] = {}
        self._responses: dict[Hashable, Any] = {}
        self._digests: dict[Hashable, tuple[Callable[[], Any], bytes]] = {}

    def prompt(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What is made of a prompt or a picture; it is made now if it is new."""
        if key not in self._prompts:
            self._prompts[key] = make()
        made: Made = self._prompts[key]
        return made

    def response(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What is made of a response; it is made now if it is new, or was long ago."""
        if key not in self._responses:
            if len(self._responses) >= _RESPONSES:
                self._responses.clear()
            self._responses[key] = make()
        made: Made = self._responses[key]
        return made

    @contextlib.contextmanager
    def while_needed(self) -> Iterator[None]:
        """Let go on leaving what was prepared inside, if the cache is one of a batch."""
        before = dict(self._prompts)
        try:
            yield
        finally:
            if self.still:
                self._prompts = before

    def clear(self) -> None:
        """Let everything go."""
        for kept in (self._prompts, self._responses, self._digests):
            kept.clear()

    def digest(self, picture: Image.Image | StoredPicture) -> bytes:
        """What tells a picture's pixels from others'; one on a disk is read for it once."""
        if isinstance(picture, StoredPicture):
            known: Hashable = (picture, picture.stamp())
            if known not in self._digests:
                self._digests[known] = (lambda: None, _digest(picture.read()))
            return self._digests[known][1]
        if not self.still:
            return _digest(picture)
        there, found = self._digests.get(id(picture), (lambda: None, b""))
        if there() is not picture:  # Ids are given anew when a picture is gone.
            found = _digest(picture)
            self._digests[id(picture)] = (weakref.ref(picture), found)
        return found

    @contextlib.contextmanager
    def preparing(self, processor: Any) -> Iterator[None]:
        """Inside, a processor prepares the same pictures once, whatever prompt they are in."""
        images = processor.image_processor
        if not hasattr(images, "preprocess"):
            yield
            return
        plain = images.preprocess

        def preprocess(pictures: Any, *args: Any, **options: Any) -> Any:
            try:
                key = (self._digests_of(pictures), repr((args, sorted(options.items()))))
            except TypeError:  # Not as Pillow's images, as we give them.
                return plain(pictures, *args, **options)
            # Processors take parts out of what they get.
            return copy.copy(self.prompt(key, lambda: plain(pictures, *args, **options)))

        images.preprocess = preprocess
        try:
            yield
        finally:
            vars(images).pop("preprocess", None)

    def _digests_of(self, pictures: Any) -> Hashable:
        if isinstance(pictures, list | tuple):
            return tuple(self._digests_of(one) for one in pictures)
        if not isinstance(pictures, Image.Image):
            raise TypeError
        return self.digest(pictures)


def _digest(picture: Image.Image) -> bytes:
    pixels = hashlib.blake2b(f"{picture.mode} {picture.size}".encode(), digest_size=16)
    pixels.update(picture.tobytes())
    return pixels.digest()


@contextlib.contextmanager
def seen_once(mllm: Any) -> Iterator[Callable[[], object]]:
    """Inside, pictures do not go through the vision tower again right after they went through it.

    What the tower made of the last batch's pictures is kept, and given again where the very same
    are shown, whatever text they stand in. Not where gradients are wanted.

    Args:
        mllm: The model; nothing is kept of one that has no prefixes, either.

    Yields:
        What lets go of it.
    """
    modules = [] if getattr(mllm, "prefixes", None) is None else mllm.model.modules()
    owners = [one for one in modules if hasattr(type(one), "get_image_features")]
    last: list[tuple[_Given, Any]] = []
    if not owners:
        yield last.clear
        return
    # The inner one: a head's own asks it.
    owner: Any = owners[-1]
    plain = owner.get_image_features

    # Who generates looks at the arguments' names.
    @functools.wraps(plain)
    def features(*args: Any, **options: Any) -> Any:
        if torch.is_grad_enabled():
            return plain(*args, **options)
        given: _Given = dict(enumerate(args))
        # The rest is what only the text stack reads.
        given |= {name: one for name, one in options.items() if not name.startswith(_TEXT)}
        if not (last and _same(last[0][0], given)):
            last.clear()
            last.append((given, plain(*args, **options)))
        return copy.copy(last[0][1])

    owner.get_image_features = features
    try:
        yield last.clear
    finally:
        vars(owner).pop("get_image_features", None)


_Given = dict[int | str, Any]

_TEXT = ("attcot_", "use_cache", "cache_position")


def _same(one: _Given, other: _Given) -> bool:
    """Whether arguments are equal, tensors number by number."""

    def equal(a: Any, b: Any) -> bool:
        tensors = isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
        return torch.equal(a, b) if tensors else type(a) is type(b) and bool(a == b)

    return one.keys() == other.keys() and all(map(equal, one.values(), other.values()))
