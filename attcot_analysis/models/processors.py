"""Image processors: limits on what a picture costs, and what is wrong with how they are saved."""

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import transformers
from PIL import Image
from transformers.image_processing_base import ImageProcessingMixin
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from attcot_analysis.errors import ModelError
from attcot_analysis.files import regular
from attcot_analysis.models.families import Family

_PICTURE = (640, 480)
_MOST = {
    "num_hidden_layers": 1000,
    "depth": 1000,
    "num_attention_heads": 2**12,
    "hidden_size": 2**17,
    "intermediate_size": 2**20,
    "vocab_size": 2**22,
}
"""Of a configuration; the largest models that are published have far less."""
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
_MOST_PIXELS = 2**26
"""That a processor may blow any picture up to; of an edge, the root."""


def settings_file(name: str) -> str:
    """The file that a checkpoint's image processor is read from, where two may say how it is.

    Args:
        name: Its folder; of a hub id both files are named.
    """
    first, second = "processor_config.json", "preprocessor_config.json"
    if not Path(name).is_dir():
        return f"{first}, or where that names no image_processor in {second}"
    try:
        held = json.loads(regular(Path(name) / first).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return second
    return first if isinstance(held, dict) and "image_processor" in held else second


def check_config(config: Any, name: str) -> None:
    """Refuse a configuration whose model would take all memory, or whose ids are none.

    Raises:
        ModelError: If a number of it is beyond what any model has.
    """
    for part in ("", "text_config", "vision_config"):
        own = getattr(config, part, None) if part else config
        for key, most in _MOST.items():
            value = getattr(own, key, None)
            if isinstance(value, int) and not 0 < value <= most:
                raise ModelError(
                    f"{name} has {key} {value} in its {part or 'configuration'}, expected 1 to "
                    f"{most}; get the checkpoint again from a source you trust."
                )
    folder = Path(name)
    held = sum(file.stat().st_size for kind in _WEIGHTS for file in folder.glob(kind))
    text = config.get_text_config()
    size = [getattr(text, key, 0) for key in ("num_hidden_layers", "hidden_size", "vocab_size")]
    if held and all(isinstance(one, int) for one in size):
        layers, width, vocabulary = size
        least = (layers * width + vocabulary) * width
        if least > 4 * held:  # Two bits for each.
            raise ModelError(
                f"{name} has a configuration of at least {least} weights, and files of {held} "
                "bytes for them; get the checkpoint again, its config.json is of another model."
            )
    token = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
    if isinstance(token, int) and not 0 <= token < _MOST["vocab_size"]:
        raise ModelError(
            f"{name} has the image token {token} in its configuration, which is no token; correct "
            "image_token_id in config.json."
        )


def check_processor(config: Any, processor: Any, name: str) -> None:
    """Refuse an image processor that makes too much of any picture, or other patches than are read.

    Raises:
        ModelError: If it does.
    """
    images = getattr(processor, "image_processor", None)
    cut, read = (
        getattr(one, "patch_size", None) for one in (images, getattr(config, "vision_config", None))
    )
    if isinstance(cut, int) and isinstance(read, int) and cut != read:
        raise ModelError(
            f"The processor of {name} cuts pictures into patches of {cut} pixels and the model "
            f"reads patches of {read}; correct patch_size in its {settings_file(name)}."
        )
    area = images is not None and hasattr(images, "merge_size")  # Qwen-VL counts pixels in all.
    keys = ("height", "width", "shortest_edge", *(() if area else ("longest_edge",)))
    for part, key in ((part, key) for part in ("size", "crop_size") for key in keys):
        held = getattr(images, part, None) or {}
        value = held.get(key) if isinstance(held, Mapping) else getattr(held, key, None)
        most = _MOST_PIXELS if area else int(_MOST_PIXELS**0.5)
        if isinstance(value, int) and not 0 < value <= most:
            raise ModelError(
                f"The processor of {name} has {key} {value} in its {part}, expected 1 to {most}; "
                f"correct it in its {settings_file(name)}."
            )


def limit_pictures(
    family: Family, processor: Any, config: Any, limits: Mapping[str, int | None]
) -> dict[str, int]:
    """Limit what a picture costs, in place, for `processor` and model configuration.

    Args:
        family: The model's.
        processor: Gets an image processor with other settings.
        config: The model's own; families of which the model reads the same setting have it there.
        limits: ``max_pixels`` or ``max_patches``; ``None`` limits nothing.

    Returns:
        The limits that are given.

    Raises:
        ModelError: If pictures of this family are not limited by that, or not by so little.
    """
    given = {name: most for name, most in limits.items() if most is not None}
    for name, most in given.items():
        if name not in family.limits:
            others = " or ".join(family.limits)
            instead = f"give {others} instead" if others else "leave it out, all cost the same"
            raise ModelError(
                f"{name} does not limit what a picture costs in family {family.name}; {instead}."
            )
        if most < 1:
            raise ModelError(f"{name} is {most}; give at least 1.")
        changes = family.limits[name](processor, most)
        images = processor.image_processor
        processor.image_processor = type(images).from_dict({**images.to_dict(), **changes})
        for key, value in changes.items():
            if hasattr(config, key):
                setattr(config, key, value)
    return given


def overridden_tiles(family: Family, processor: Any) -> str | None:
    """Half a sentence if a processor cuts pictures otherwise than its image processor says.

    A processor class may have settings of its own for its image processor, which then count. What
    both make of one picture is compared.
    """
    if "max_patches" not in family.limits:
        return None
    images, picture = processor.image_processor, Image.new("RGB", _PICTURE)
    content = [{"type": "image"}, {"type": "text", "text": "?"}]
    try:
        prompt = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        made = processor(text=[prompt], images=[[picture]], return_tensors="pt")["pixel_values"]
        alone = images([[picture]], return_tensors="pt")["pixel_values"]
    # What a processor refuses is said where inputs are made.
    except (ValueError, TypeError, KeyError, ArithmeticError, IndexError, RuntimeError):
        return None
    if made.shape == alone.shape:
        return None
    own = getattr(processor, "images_kwargs", None) or {}
    differing = [
        f"{name} is {getattr(images, name)} and {type(processor).__name__} sets {value}"
        for name, value in own.items()
        if getattr(images, name, None) not in (None, value)
    ]
    counts = [len(one.flatten(0, -4)) for one in (alone, made)]
    width, height = _PICTURE
    return (
        f"a picture of {width} x {height} pixels becomes {counts[1]} tiles and not {counts[0]}, as "
        f"its image processor's settings say{f' ({differing[0]})' if differing else ''}; give "
        "max_patches (--max-patches), 1 for a single tile, to have it one way"
    )


def unknown_image_processor(name: str, model_type: str | None, **hub: Any) -> str | None:
    """A sentence if a checkpoint names an image processor that `transformers` does not have."""
    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(name, **hub)
    except (OSError, ValueError):
        return None
    named = settings.get("image_processor_type") if isinstance(settings, dict) else None
    known = [one for names in IMAGE_PROCESSOR_MAPPING_NAMES.values() for one in _flat(names)]
    if not isinstance(named, str) or named.removesuffix("Fast") in known or named in known:
        return None
    of_model = list(_flat(IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type or "", ())))
    near = difflib.get_close_matches(named, of_model or known, 1, 0.0)
    return (
        f"{name} names the image processor {named}, which transformers "
        f"{transformers.__version__} does not have; rename image_processor_type to {near[0]}, in "
        f"its {settings_file(name)}."
    )


def _flat(names: Any) -> Iterator[str]:
    if isinstance(names, str):
        yield names
    elif names:
        yield from (one for one in (names.values() if isinstance(names, Mapping) else names) if one)
