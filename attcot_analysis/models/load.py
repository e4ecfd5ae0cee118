"""`Mllm`: a multimodal LLM with its processor, loaded from a folder or the hub."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from attcot_analysis.errors import ModelError, passing
from attcot_analysis.models.families import Family, family_of
from attcot_analysis.problems.response import is_open


@dataclass(frozen=True, eq=False)
class Mllm:
    """A model, its processor, and the family that says how to read its inputs.

    Attributes:
        model: A `transformers` image-text-to-text model (or a wrapper with its ``config``).
        processor: Its processor, with ``tokenizer``, ``image_processor`` and a chat template.
        family: See `attcot_analysis.models.families`.
        name: Path or hub id it was loaded from, or any name.
        revision: Commit of the hub repository, if it came from there.

    Raises:
        ModelError: If the processor lacks a part that inputs need.
    """

    model: Any
    processor: Any
    family: Family
    name: str
    revision: str | None = None

    def __post_init__(self) -> None:
        """Check the processor's parts; give the tokenizer a padding token if it has none."""
        for part in ("tokenizer", "image_processor"):
            if getattr(self.processor, part, None) is None:
                raise ModelError(
                    f"The processor of {self.name} has no {part}; save the model's complete "
                    "processor (AutoProcessor) beside it."
                )
        if not getattr(self.processor, "chat_template", None):
            raise ModelError(
                f"The processor of {self.name} has no chat template; add chat_template.jinja to "
                "its folder or use an instruction-tuned checkpoint."
            )
        if self.image_token_id >= len(self.tokenizer):
            raise ModelError(
                f"The tokenizer of {self.name} has {len(self.tokenizer)} tokens and not the image "
                f"token {self.image_token_id}; save the model's own tokenizer beside it."
            )
        if self.tokenizer.pad_token_id is None:
            if self.tokenizer.eos_token is None:
                raise ModelError(
                    f"The tokenizer of {self.name} has neither a padding nor an end token; "
                    "set tokenizer.pad_token."
                )
            self.tokenizer.pad_token = self.tokenizer.eos_token

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the first parameter lies."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the first parameter."""
        return next(self.model.parameters()).dtype

    @property
    def text_config(self) -> Any:
        """Configuration of the text stack."""
        return self.model.config.get_text_config()

    @property
    def n_layers(self) -> int:
        """Layers of the text stack."""
        return int(self.text_config.num_hidden_layers)

    @property
    def n_heads(self) -> int:
        """Query heads per layer of the text stack."""
        return int(self.text_config.num_attention_heads)

    @property
    def image_token_id(self) -> int:
        """Id that stands for an image token in ``input_ids``."""
        config = self.model.config
        found = getattr(config, "image_token_id", None)
        return int(config.image_token_index if found is None else found)

    @cached_property
    def opens_rationale(self) -> bool:
        """Whether the chat template itself writes the ``<think>`` that a response begins behind.

        So do the templates of thinking checkpoints: their prompts end in an open ``<think>``.
        """
        message = {"role": "user", "content": [{"type": "text", "text": "?"}]}
        prompt = self.processor.apply_chat_template(
            [message], tokenize=False, add_generation_prompt=True
        )
        return is_open(prompt)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a response: the generation config's and the tokenizer's end tokens."""
        generation = getattr(self.model, "generation_config", None)
        configured = getattr(generation, "eos_token_id", None)
        ids = configured if isinstance(configured, list | tuple) else [configured]
        found = [*ids, self.tokenizer.eos_token_id]
        return tuple(dict.fromkeys(int(i) for i in found if i is not None))

    def decode(self, ids: Sequence[int]) -> str:
        """Token ids as text, with tags and special tokens and not tidied up."""
        return str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )


def wrap_mllm(
    model: Any, processor: Any, *, name: str = "model", revision: str | None = None
) -> Mllm:
    """Make an `Mllm` of a model and a processor already in memory.

    Raises:
        ModelError: If the family is unknown or the processor incomplete.
    """
    return Mllm(model, processor, family_of(model.config), name, revision)


def load_mllm(
    name_or_path: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    attn_implementation: str = "sdpa",
) -> Mllm:
    """Load a model and its processor with `transformers`' Auto classes, ready to measure.

    Args:
        name_or_path: A folder or a hub id such as ``Qwen/Qwen2.5-VL-7B-Instruct``.
        dtype: ``"auto"`` takes the type the checkpoint was saved in.
        device: Default: the first CUDA device if there is one, else the CPU.
        revision: Branch, tag or commit of a hub repository.
        trust_remote_code: Passed to `transformers`.
        attn_implementation: Of the whole model; measurements switch the text stack's for as long
            as they run.

    Raises:
        ModelError: If anything is missing, unreadable, or of no supported family.
    """
    name = str(name_or_path)
    hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    _check_folder(Path(name_or_path))
    config = _load(AutoConfig, "configuration", name, **hub)
    family = family_of(config)
    processor = _load(AutoProcessor, "processor", name, **hub)
    if getattr(processor, "tokenizer", None) is None:
        raise ModelError(
            f"{name} holds no processor, only a {type(processor).__name__}; save the model's "
            "AutoProcessor beside it."
        )
    model, found = _load(
        AutoModelForImageTextToText,
        "model",
        name,
        dtype=dtype,
        attn_implementation=attn_implementation,
        output_loading_info=True,
        **hub,
    )
    missing = sorted(found["missing_keys"])
    if missing:
        raise ModelError(
            f"{name} lacks {len(missing)} of the model's weights ({missing[0]} for one), which "
            "would be random numbers; save or download the checkpoint again."
        )
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device).eval()
    return Mllm(model, processor, family, name, getattr(config, "_commit_hash", None) or revision)


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode; each of its modules is put back on leaving."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _check_folder(path: Path) -> None:
    if path.is_file():
        raise ModelError(f"{path} is a file; give the folder of a checkpoint or a hub id.")
    if not path.is_dir():
        return
    if not (path / "config.json").is_file():
        raise ModelError(f"{path} is no checkpoint folder: it has no config.json.")
    if not any((path / f"{part}_config.json").is_file() for part in ("processor", "preprocessor")):
        raise ModelError(
            f"{path} has no processor (processor_config.json or preprocessor_config.json); "
            "save the model's AutoProcessor into it."
        )


def _load(auto: Any, part: str, name: str, **options: Any) -> Any:
    try:
        return auto.from_pretrained(name, **options)
    # Damaged files fail in the readers of many libraries, each with errors of its own.
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise passing(error, f"the {part} of {name}", ModelError) or ModelError(
            f"The {part} of {name} cannot be loaded: {reason}"
        ) from error
