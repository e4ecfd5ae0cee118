"""`Mllm`: a multimodal LLM with its processor, loaded from a folder or the hub."""

import contextlib
import inspect
import json
import re
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, GenerationMixin

from attcot_analysis.errors import MeasureError, ModelError, lacks_memory, one_line, passing
from attcot_analysis.files import name_of, near_folder, not_there, regular
from attcot_analysis.models.cache import PromptCache
from attcot_analysis.models.families import Family, family_of
from attcot_analysis.models.processors import (
    check_config,
    check_processor,
    limit_pictures,
    overridden_tiles,
    settings_file,
    unknown_image_processor,
)
from attcot_analysis.models.untrusted import check_template, usable_device
from attcot_analysis.problems.formats import TAGS, ResponseFormat, response_format
from attcot_analysis.problems.response import ParsedResponse, parse_response


@dataclass(frozen=True, eq=False)
class Mllm:
    """A model, its processor, and the family that says how to read its inputs.

    Attributes:
        model: A `transformers` image-text-to-text model (or a wrapper with its ``config``).
        processor: Its processor, with ``tokenizer``, ``image_processor`` and a chat template.
        family: See `attcot_analysis.models.families`.
        name: Path or hub id it was loaded from, or any name.
        revision: Commit of the hub repository, if it came from there.
        cache: Keeps prompts as the processor has prepared them; default none is kept.
        prefixes: Keeps what passes begin with, an `attcot_analysis.attention.prefixes.Prefixes`;
            default every pass is one of its own.
        format: How it is asked and how its responses are read; `dataclasses.replace` changes it.
        limits: What `load_mllm` was told that a picture may cost; empty for the checkpoint's own.
        max_seconds: After which the generation of a batch is ended, as a guard against models that
            never come to an end; responses it cuts are not ``finished``, and a warning counts them.

    Raises:
        ModelError: If the processor lacks a part that inputs need.
    """

    model: Any
    processor: Any
    family: Family
    name: str
    revision: str | None = None
    cache: PromptCache | None = None
    prefixes: Any = None
    format: ResponseFormat = TAGS
    limits: Mapping[str, int] = field(default_factory=dict)
    max_seconds: float = 4 * 3600.0

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
        """Where the first parameter lies that is not left on a disk."""
        placed = (weight.device for weight in self.model.parameters())
        return next((one for one in placed if one.type != "meta"), torch.device("cpu"))

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
        """Whether the chat template itself writes the tag that a rationale begins behind.

        So do the templates of thinking checkpoints: their prompts end in an open ``<think>``.
        """
        message = {"role": "user", "content": [{"type": "text", "text": "?"}]}
        return self.format.is_open(self.prompt([message]))

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Messages as the text behind which the model responds.

        Raises:
            ModelError: If the chat template fails on them.
        """
        options: dict[str, Any] = {}
        if self.format.thinking is not None:
            options["enable_thinking"] = self.format.thinking
        try:
            rendered = self.processor.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True, **options
            )
        # Templates are programs: they fail with errors of their own and of Python's.
        except Exception as error:
            raise ModelError(
                f"The chat template of {self.name} fails on these messages: {one_line(error)}; "
                "give it messages that it takes, or another template."
            ) from error
        return f"{rendered}{self.format.prefill}"

    def response_text(self, response: Sequence[int] | str) -> str:
        """A response as text, with the opening tag that the prompt may have written before it.

        Token ids are read up to the first that ends a response.

        Raises:
            MeasureError: If one is no token of the model.
        """
        if not isinstance(response, str):
            stop = set(self.stop_ids)
            ids = self.check_ids(response)
            response = self.decode(list(takewhile(lambda token: token not in stop, ids)))
        return self.format.with_opening(response) if self.opens_rationale else response

    def check_ids(self, response: Sequence[int]) -> list[int]:
        """The tokens of a response.

        Raises:
            MeasureError: If one is no token of the model.
        """
        ids = [int(token) for token in response]
        wrong = [one for one in ids if not 0 <= one < self.text_config.vocab_size]
        if wrong:
            raise MeasureError(
                f"A response holds the token {wrong[0]}, which {self.name} has not; give ids of "
                "its own tokenizer, or text."
            )
        return ids

    def parse(self, response: Sequence[int] | str) -> ParsedResponse:
        """Take a response of the model apart, by its `format`."""
        return parse_response(
            self.response_text(response), self.format, opened=self.opens_rationale
        )

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """What the tokenizer reads as one special token wherever it stands in a text."""
        tokenizer = self.tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        special = [str(token) for token in added if token.special]
        found = dict.fromkeys([*tokenizer.all_special_tokens, *special])
        return tuple(token for token in found if token.strip())

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a response: the generation config's and the tokenizer's end tokens.

        Raises:
            ModelError: If one is no id.
        """
        generation = getattr(self.model, "generation_config", None)
        configured = getattr(generation, "eos_token_id", None)
        ids = configured if isinstance(configured, list | tuple) else [configured]
        found = [one for one in (*ids, self.tokenizer.eos_token_id) if one is not None]
        wrong = [one for one in found if not isinstance(one, int) or not 0 <= one < 2**31]
        if wrong:
            raise ModelError(
                f"{self.name} has the end token {wrong[0]!r:.60}, which is no token; correct "
                "eos_token_id in its generation_config.json or tokenizer."
            )
        return tuple(dict.fromkeys(found))

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
    _keep_logits(model)
    return Mllm(model, processor, family_of(model.config), name, revision)


def _keep_logits(model: Any) -> None:
    """Let a model whose class computes all logits (MiniCPM-V) heed ``logits_to_keep`` as others do.

    It hands the argument on to its inner model, whose states are cut before its head reads them.
    """
    parts: Iterable[Any] = getattr(model, "modules", tuple)()
    owner: Any = next((one for one in parts if isinstance(one, GenerationMixin)), None)
    if owner is None or "logits_to_keep" in inspect.signature(owner.forward).parameters:
        return
    if _cut_states not in owner.base_model._forward_hooks.values():
        owner.base_model.register_forward_hook(_cut_states, with_kwargs=True)


def _cut_states(_model: Any, _inputs: Any, given: Mapping[str, Any], output: Any) -> Any:
    keep = given.get("logits_to_keep", 0)
    if isinstance(keep, Tensor) or keep:
        rows = keep if isinstance(keep, Tensor) else slice(-keep, None)
        output.last_hidden_state = output.last_hidden_state[:, rows]
    return output


def load_mllm(
    name_or_path: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | Mapping[str, Any] | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    attn_implementation: str = "sdpa",
    format: str | Path | ResponseFormat = TAGS,
    max_pixels: int | None = None,
    max_patches: int | None = None,
) -> Mllm:
    """Load a model and its processor with `transformers`' Auto classes, ready to measure.

    Args:
        name_or_path: A folder or a hub id such as ``Qwen/Qwen2.5-VL-7B-Instruct``.
        dtype: ``"auto"`` takes the type the checkpoint was saved in.
        device: Default: the first CUDA device if there is one, else the CPU. ``"auto"`` spreads a
            model over all GPUs, then memory and disk, as accelerate plans it; a mapping from parts
            to devices is a plan of one's own.
        revision: Branch, tag or commit of a hub repository.
        trust_remote_code: Passed to `transformers`.
        attn_implementation: Of the whole model; measurements switch the text stack's for as long
            as they run.
        format: How the model is asked and its responses are read: a name, a YAML file, or a
            `ResponseFormat`.
        max_pixels: Largest picture in pixels (width x height) after the processor's resizing, for
            families with one token per so many pixels (Qwen-VL); smaller is cheaper and sees less.
        max_patches: Most tiles of a picture, for families that cut it into tiles (InternVL,
            LLaVA-NeXT, LLaVA-OneVision, Idefics3, SmolVLM); a view of the whole is one more.

    Warns:
        UserWarning: If the processor cuts pictures otherwise than the checkpoint's file says, and
            no limit settles it; if weights in float16 are held in float32 on a CPU.

    Raises:
        ModelError: If anything is missing, unreadable, or of no supported family.
        ProblemError: If there is no such format.
    """
    chosen = response_format(format)
    name = name_of(name_or_path, ModelError)
    hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    spread = device == "auto" or isinstance(device, Mapping)
    there = None if spread else usable_device(device)  # type: ignore[arg-type]
    config, family, processor = _load_parts(name, **hub)
    check_template(Mllm(SimpleNamespace(config=config), processor, family, name, format=chosen))
    model, found = _load(
        AutoModelForImageTextToText,
        "model",
        name,
        dtype=dtype,
        attn_implementation=attn_implementation,
        output_loading_info=True,
        **({"device_map": device} if spread else {}),
        **hub,
    )
    missing = sorted(found["missing_keys"])
    if missing:
        raise ModelError(
            f"{name} lacks {len(missing)} of the model's weights ({missing[0]} for one), which "
            "would be random numbers; save or download the checkpoint again."
        )
    model = (model if there is None else model.to(there)).eval()
    _keep_logits(model)
    as_it_is = there is None or getattr(model, "is_quantized", False)
    if model.device.type == "cpu" and model.dtype == torch.float16 and not as_it_is:
        warnings.warn(
            f"{name} is held in float32: float16 on a CPU overflows where the GPU's does not.",
            stacklevel=2,
        )
        model = model.float()
    limits = limit_pictures(
        family, processor, model.config, {"max_pixels": max_pixels, "max_patches": max_patches}
    )
    tiles = None if limits else overridden_tiles(family, processor)
    if tiles:
        warnings.warn(f"{name}: {tiles}.", stacklevel=2)
    commit = getattr(config, "_commit_hash", None) or revision
    mllm = Mllm(model, processor, family, name, commit, format=chosen, limits=limits)
    _try(mllm)
    return mllm


def load_processor(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    max_pixels: int | None = None,
    max_patches: int | None = None,
) -> Mllm:
    """Load everything but the weights: enough to encode prompts and to count their tokens.

    Args:
        name_or_path: As for `load_mllm`, like the others.
        revision: Of a hub repository.
        max_pixels: What a picture may cost.
        max_patches: What a picture may cost.

    Returns:
        A model whose ``model`` holds its configuration only.

    Raises:
        ModelError: As `load_mllm`.
    """
    name = name_of(name_or_path, ModelError)
    hub = {"revision": revision, "trust_remote_code": False}
    config, family, processor = _load_parts(name, **hub)
    given = {"max_pixels": max_pixels, "max_patches": max_patches}
    limits = limit_pictures(family, processor, config, given)
    mllm = Mllm(SimpleNamespace(config=config), processor, family, name, limits=limits)
    check_template(mllm)
    return mllm


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
    for file in (*path.iterdir(), *path.glob("additional_chat_templates/*")):
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise ModelError(
                f"{file} is a pipe or a device, which would be waited for; get the checkpoint "
                "again from a source you trust."
            )
    if not (path / "config.json").is_file():
        raise ModelError(f"{path} is not a checkpoint folder: it has no config.json.")
    if not any((path / f"{part}_config.json").is_file() for part in ("processor", "preprocessor")):
        raise ModelError(
            f"{path} has no processor (processor_config.json or preprocessor_config.json); "
            "save the model's AutoProcessor into it."
        )
    if (path / "adapter_config.json").exists():
        # The file may name any model, of the hub too, which would be loaded in its place.
        beside = "beside full weights, which would be applied to them"
        full = any(path.glob("model*.safetensors")) or any(path.glob("pytorch_model*"))
        raise ModelError(
            f"{path} holds a LoRA adapter {beside if full else 'and not the weights it is for'}; "
            "merge it (merge_and_unload) or move the adapter's files elsewhere."
        )
    for index in path.glob("*.index.json"):
        _check_shards(index)


def _check_shards(index: Path) -> None:
    """Refuse an index that names weights outside of its folder."""
    try:
        files = set(json.loads(regular(index).read_text(encoding="utf-8"))["weight_map"].values())
        plain = all(Path(file).name == file for file in files)
    # JSON of any form, or none.
    except Exception as error:
        raise passing(error, index, ModelError) or ModelError(
            f"{index} is damaged; save or download the checkpoint again."
        ) from error
    if not plain:
        raise ModelError(
            f"{index} names weights outside of its folder; get the checkpoint again from a source "
            "you trust."
        )


def _load_config(name: str, **hub: Any) -> Any:
    """The configuration in a folder or on the hub, which no mistyped path is looked for on."""
    path = Path(name)
    _check_folder(path)
    is_path = path.is_absolute() or name.startswith(".") or len(path.parts) > 2
    if is_path and not path.exists():
        raise ModelError(not_there(path))
    try:
        return _load(AutoConfig, "configuration", name, **hub)
    except ModelError as error:
        beside = len(path.parts) == 2 and path.parent.is_dir()
        if path.exists() or not (beside or near_folder(path)):
            raise
        raise ModelError(f"{not_there(path)} {error}") from error


def _load_parts(name: str, **hub: Any) -> tuple[Any, Family, Any]:
    """Everything but the weights, checked: configuration, family and processor."""
    config = _load_config(name, **hub)
    family = family_of(config)
    check_config(config, name)
    processor = _load_processor(name, config, **hub)
    check_processor(config, processor, name)
    return config, family, processor


def _load_processor(name: str, config: Any, **hub: Any) -> Any:
    try:
        processor = _load(AutoProcessor, "processor", name, **hub)
    except ModelError as error:
        sentence = unknown_image_processor(name, config.model_type, **hub)
        if sentence is None:
            raise
        raise ModelError(sentence) from error
    if getattr(processor, "tokenizer", None) is None:
        raise ModelError(
            f"{name} holds no processor, only a {type(processor).__name__}; save the model's "
            "AutoProcessor beside it."
        )
    return processor


def _load(auto: Any, part: str, name: str, **options: Any) -> Any:
    try:
        return auto.from_pretrained(name, **options)
    # Damaged files fail in the readers of many libraries, each with errors of its own.
    except Exception as error:
        raise passing(error, f"the {part} of {name}", ModelError) or ModelError(
            f"The {part} of {name} cannot be loaded: {one_line(error)}."
        ) from error


def _try(mllm: Mllm) -> None:
    """Let a checkpoint read a small picture and a question, as `transformers` alone does it.

    A value of its settings that is none shows where the processor or the model first uses it, with
    any error. Nothing of ours runs inside, so that no fault of ours is laid to the checkpoint.

    Raises:
        ModelError: If it fails.
    """
    content = [{"type": "image"}, {"type": "text", "text": "?"}]
    prompt = mllm.prompt([{"role": "user", "content": content}])
    part, files = "processor", f"{settings_file(mllm.name)} and tokenizer_config.json"
    picture = Image.new("RGB", (64, 64))
    try:
        batch = mllm.processor(text=[prompt], images=[[picture]], return_tensors="pt")
        part, files = "model", "config.json"
        with torch.no_grad():
            mllm.model(**batch.to(mllm.device), use_cache=False)
    except Exception as error:
        raise passing(error, f"the {part} of {mllm.name}", ModelError) or ModelError(
            f"The {part} of {mllm.name} fails on a small picture and a question "
            f"({one_line(error)}); correct its {files}, or get the checkpoint again."
        ) from error


_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}

_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, so that less at once may do."""
    return isinstance(error, RuntimeError | MemoryError) and lacks_memory(error)


def parse_memory(text: str) -> int:
    """Bytes of an amount such as ``20GiB``, ``800 MB`` or ``1.5G`` (which is GB).

    Raises:
        ModelError: If it is none.
    """
    found = _AMOUNT.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise ModelError(f"{text!r} is not an amount of memory; write it as 20GiB or 800MB.")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** _UNITS[found[2].upper()])


@contextlib.contextmanager
def memory_limit(amount: int | None, device: str | torch.device | None = None) -> Iterator[None]:
    """Let this process take no more memory than that; whatever wants more fails as out of memory.

    On a GPU the limit is on what torch allocates there, on the CPU on the data of the whole
    process, libraries included (some hundred MB).

    Args:
        amount: Bytes; ``None`` for no limit.
        device: Where the model will be; default as `load_mllm`.

    Raises:
        ModelError: If the system knows no such limit.
    """
    if amount is None:
        yield
        return
    chosen = usable_device(None if device == "auto" else device)
    if chosen.type == "cuda":
        index = torch.cuda.current_device() if chosen.index is None else chosen.index
        total = torch.cuda.get_device_properties(index).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, amount / total), index)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, index)
        return
    if chosen.type != "cpu" or not sys.platform.startswith("linux"):
        raise ModelError(
            f"Memory cannot be limited on {chosen.type} under {sys.platform}; leave --max-memory "
            "out, batches that do not fit are halved all the same."
        )
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    hard = amount if before[1] == resource.RLIM_INFINITY else min(amount, before[1])
    resource.setrlimit(resource.RLIMIT_DATA, (hard, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


_LOGITS_AT_ONCE = 2**24
"""Logits held at once when reading many rows (64 MB in fp32)."""


@dataclass(frozen=True, eq=False)
class TextStack:
    """Layers, final norm and output head of a model's text stack.

    Attributes:
        layers: The decoder layers, in order.
        norm: The norm behind the last of them.
        head: From normed hidden states to logits.
        vocabulary: Number of logits, V.
        cap: What they are capped by, softly, ``cap * tanh(logits / cap)`` (Gemma 4).
    """

    layers: tuple[Any, ...]
    norm: Any
    head: Any
    vocabulary: int
    cap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits ``(..., V)`` in fp32 that hidden states ``(..., d)`` of any layer would give."""
        found = self.head(self.norm(hidden)).float()
        return found if self.cap is None else self.cap * (found / self.cap).tanh()

    def rows_at_once(self, per_row: int = 1) -> int:
        """How many rows to read at once, each of ``per_row`` logit vectors."""
        return max(1, _LOGITS_AT_ONCE // (self.vocabulary * per_row))

    def require_own(self, hidden: Tensor, logits: Tensor) -> None:
        """Check the parts: the last layer's states must give the model's own logits.

        Args:
            hidden: Of the last layer, ``(n, d)``.
            logits: The model's output at the same places, ``(n, V)``.

        Raises:
            MeasureError: If they do not; the model then does more after its last layer.
        """
        exact = logits.dtype in (torch.float32, torch.float64)
        tolerance = 1e-3 if exact else 0.05
        found, own = self.logits(hidden), logits.float()
        scale = own.abs().amax().clamp(min=1.0)
        if own.isfinite().all() and float((found - own).abs().amax() / scale) > tolerance:
            raise MeasureError(
                "The model's final norm and output head do not turn its last hidden states into "
                "its logits (they are scaled or capped elsewhere), so hidden states cannot be "
                "read; take a model that ends in norm and head."
            )


def text_stack(mllm: Mllm) -> TextStack:
    """Find the parts of a model's text stack.

    Raises:
        MeasureError: If they are not where `transformers` keeps them.
    """
    model = mllm.model
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    layers = getattr(decoder, "layers", ())
    norm = getattr(decoder, "norm", getattr(decoder, "embedding_norm", None))  # LFM2's name.
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if len(layers) != mllm.n_layers or norm is None or head is None:
        raise MeasureError(
            f"{type(model).__name__} does not show its text layers, final norm and output head "
            "(get_decoder(), get_output_embeddings()); use a model class of transformers."
        )
    cap = getattr(mllm.text_config, "final_logit_softcapping", None)
    return TextStack(tuple(layers), norm, head, int(mllm.text_config.vocab_size), cap)


@contextlib.contextmanager
def hidden_states(
    stack: TextStack, layers: Collection[int], rows: Tensor
) -> Iterator[dict[int, Tensor]]:
    """Keep what layers put out at some rows, in every forward pass inside (the last one counts).

    Args:
        stack: The text stack.
        layers: Which layers, from 0.
        rows: Positions, long ``(n,)``.

    Yields:
        Layer → hidden states ``(B, n, d)``, detached; filled by the forward pass.
    """
    kept: dict[int, Tensor] = {}

    def keep(layer: int, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        kept[layer] = states.detach()[:, rows.to(states.device)]

    with contextlib.ExitStack() as hooks:
        for layer in layers:
            hook = stack.layers[layer].register_forward_hook(
                lambda _module, _inputs, output, layer=layer: keep(layer, output)
            )
            hooks.callback(hook.remove)
        yield kept
