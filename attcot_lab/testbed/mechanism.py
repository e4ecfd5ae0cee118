"""Testbed B: tiny MLLMs that learned to reason from text and to answer from pictures.

Nothing is planted. The text stage teaches chain-of-thought on scenes described in words; the
alignment stage teaches to describe pictures and to answer about them directly, while text is
replayed, half of it behind the picture that it describes. A rationale about a picture that is not
in words as well is not shown (unless `MechanismConfig.image_cot` says so), nor one that is cut
short: what such a model does when it is asked to think about a picture is its own.

Two shortcuts stand in for long pretraining: the first layer starts with heads that look at the
tokens just before (without them tiny models take thousands of steps to copy from a text), and for
some steps words that are copied, and descriptions of pictures, are pointed to what they come from.
Rows that predict an answer are never pointed anywhere.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import set_seed

from attcot_analysis.attention.hook import attached
from attcot_analysis.attention.probe import Probe
from attcot_analysis.errors import TrainingError
from attcot_analysis.models import PROMPTS, Mllm, Mode, build_messages, wrap_mllm
from attcot_analysis.problems import Problem, Step, render_response
from attcot_analysis.train.checkpoints import new_folder
from attcot_analysis.train.data import IGNORED
from attcot_lab.testbed.arrows import CELL, COLOURS, add_cast, cast_field, cell_box, pick
from attcot_lab.testbed.build import (
    BuildConfig,
    History,
    batch_of,
    optimizers_of,
    response_loss,
    run_stage,
    save_built_model,
    train_vision,
    weighted_loss,
)
from attcot_lab.testbed.charts import HIGHEST, ChartsConfig
from attcot_lab.testbed.counting import NOTHING
from attcot_lab.testbed.kinds import generator_of, kind_name
from attcot_lab.testbed.lessons import ChartLesson, Labels, Row, Source, chat_prompt
from attcot_lab.testbed.scenes import (
    SHAPES,
    SIDE,
    BarsConfig,
    RelationConfig,
    WalkConfig,
    bar_box,
    draw_pieces,
    random_scene,
    shuffled,
)
from attcot_lab.testbed.tiny import TinySpec, tiny_model, tiny_processor

_PIECE = re.compile(r"The (\w+) in (\w)(\d) is (\w+)\.")
_BAR = re.compile(r"The (\w+) bar reaches (\d)\.")
_GROUPS = 8
"""Places that one forward pass of the probe can tell apart."""

_SEEING = re.compile(r"visual|vision_tower|multi_modal_projector")
"""Parameters of what the text stage has no use for."""
_TOWER = re.compile(r"visual\.(?!merger)|vision_tower")
"""Parameters of the tower, which the alignment stage leaves as they are, as trainers of MLLMs do: a
tower that goes on learning spreads what a place shows over the whole picture."""

Knobs = RelationConfig | WalkConfig | BarsConfig


@dataclass(frozen=True)
class MechanismConfig:
    """How a model of testbed B is made.

    Attributes:
        seed: Weights, pictures and order: the pretraining seed.
        kinds: The problems, each kind once, with its largest noise.
        spec: Family and sizes.
        vision_steps: Steps in which the tower learns what stands where, through a linear probe.
        text_steps: Steps of the text stage.
        align_steps: Steps of the alignment stage.
        describing: Of them, so many at the beginning are mostly descriptions.
        captions: Share of descriptions in the rest.
        lookups: Share of direct questions about one thing (where is the star?); what is left are
            the problems themselves, asked directly.
        image_cot: Share of those that are answered after a rationale; 0 is the testbed's point.
        pointed: Share of each stage, at the beginning, that points (see the module).
        batch_size: Rows per step.
        replay: Rows of text per step of the alignment stage, in addition; in every other step
            behind the picture that the words describe, as in problems whose text says all.
        answer_weight: How much more a token of an answer weighs than another one.
        learning_rate: Muon's peak rate; AdamW runs at 0.3 of it.

    Raises:
        TrainingError: If a share is none, or nothing would be trained.
    """

    seed: int = 0
    kinds: tuple[Knobs, ...] = (
        RelationConfig(noise=60.0),
        BarsConfig(noise=60.0),
    )
    spec: TinySpec = field(default_factory=lambda: TinySpec(hidden=96))
    vision_steps: int = 120
    text_steps: int = 300
    align_steps: int = 1200
    describing: int = 200
    captions: float = 0.15
    lookups: float = 0.3
    image_cot: float = 0.0
    pointed: float = 0.6
    batch_size: int = 32
    replay: int = 24
    answer_weight: float = 5.0
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        """Check the values."""
        sizes = (self.vision_steps, self.text_steps, self.align_steps, self.batch_size, self.replay)
        if min(sizes) < 1 or not self.kinds:
            raise TrainingError(f"Steps and sizes are {sizes}; each must be at least 1.")
        shares = (self.captions, self.lookups, self.image_cot, self.pointed)
        if not all(0 <= share <= 1 for share in shares) or self.captions + self.lookups > 1:
            raise TrainingError(
                f"captions={self.captions}, lookups={self.lookups}, image_cot={self.image_cot} and "
                f"pointed={self.pointed} must be shares, the first two at most 1 together."
            )


def build_mechanism_model(
    folder: str | Path, config: MechanismConfig, *, progress: bool = True
) -> Path:
    """Train a model of testbed B from nothing and save it into `folder`.

    Args:
        folder: A new checkpoint folder, complete when it appears.
        config: What to build.
        progress: Show a progress bar per stage.

    Raises:
        TrainingError: If the folder exists or the training diverges.
    """
    folder = new_folder(folder)
    set_seed(config.seed)
    processor = tiny_processor(_sentences(config.kinds), config.spec)
    model = tiny_model(processor, config.spec, seed=config.seed)
    mllm = wrap_mllm(model, processor, name="testbed")
    start_as_a_copier(mllm)
    history = _see(mllm, config, progress)
    history += _read(mllm, config, progress)
    history += _align(mllm, config, progress)
    kinds = [{"kind": kind_name(kind), **asdict(kind)} for kind in config.kinds]
    record = {"testbed": "B", "config": {**asdict(config), "kinds": kinds}, "history": history}
    return save_built_model(mllm, folder, record)


def start_as_a_copier(mllm: Mllm, *, sharpness: float = 8.0) -> None:
    """Let the heads of the first layer start by looking 1, 2, 3, ... tokens back.

    Keys and queries are then set by their biases and their rotation alone; all of it is trained on.
    Embeddings are made large beside what layers add, so that a token stays itself in the sum.

    Args:
        mllm: A model with biases in its attention, changed in place.
        sharpness: Size of the biases.
    """
    text = mllm.model.get_decoder()
    heads, width = text.config.num_attention_heads, text.config.hidden_size
    size = width // heads
    turns = 1 / 10000.0 ** (torch.arange(0, size, 2) / size)
    with torch.no_grad():
        text.embed_tokens.weight.normal_(0.0, 0.5)
        text.norm.weight.fill_(0.3)
        for layer in text.layers:
            layer.self_attn.o_proj.weight.mul_(0.2)
            layer.mlp.down_proj.weight.mul_(0.2)
        first = text.layers[0].self_attn
        first.q_proj.weight.mul_(0.1)
        first.k_proj.weight.mul_(0.1)
        keys = first.k_proj.bias.view(-1, size)
        keys.zero_()
        keys[:, : size // 2] = sharpness
        for head, query in enumerate(first.q_proj.bias.view(heads, size)):
            angle = turns * (head + 1)
            query.copy_(sharpness * torch.cat([angle.cos(), -angle.sin()]))


class _PieceLesson:
    """Colour and shape in every cell of a scene."""

    properties = ((*COLOURS, NOTHING), (*SHAPES, NOTHING))
    part = CELL

    def __init__(self, noise: float) -> None:
        self._noise = noise

    def reading(self, rng: np.random.Generator) -> tuple[Image.Image, Labels]:
        """A picture in a random clarity, and what stands in each cell."""
        scene = random_scene(rng, int(rng.integers(4, 7)))
        labels = []
        for row, column in itertools.product(range(SIDE), repeat=2):
            piece = scene.get((column, row))
            seen = (piece.colour, piece.shape) if piece else (NOTHING, NOTHING)
            pairs = zip(self.properties, seen, strict=True)
            labels.append([kind.index(value) for kind, value in pairs])
        cast = cast_field(rng, SIDE, rng.uniform() * self._noise)
        return Image.fromarray(add_cast(np.asarray(draw_pieces(scene)), cast), "RGB"), labels


class _BarLesson(ChartLesson):
    """In every unit of a chart its colour, and how high the bar of its column is."""

    properties: ClassVar[tuple[tuple[str, ...], ...]] = (
        *ChartLesson.properties,
        tuple(str(value) for value in range(1, HIGHEST + 1)),
    )

    def reading(self, rng: np.random.Generator) -> tuple[Image.Image, Labels]:
        """See `Lesson`."""
        image, labels = super().reading(rng)
        columns = len(COLOURS)
        empty = self.properties[0].index(NOTHING)
        filled = [sum(own[0] != empty for own in labels[at::columns]) for at in range(columns)]
        return image, [[*own, filled[at % columns] - 1] for at, own in enumerate(labels)]


def _see(mllm: Mllm, config: MechanismConfig, progress: bool) -> History:
    noise = max(kind.noise for kind in config.kinds)
    bars = any(isinstance(kind, BarsConfig) for kind in config.kinds)
    pieces = any(not isinstance(kind, BarsConfig) for kind in config.kinds)
    lessons: list[Any] = [_PieceLesson(noise)] if pieces else []
    lessons += [_BarLesson(ChartsConfig(noise=noise))] if bars else []
    plain = BuildConfig(
        seed=config.seed,
        vision_steps=config.vision_steps,
        learning_rate=config.learning_rate,
        spec=config.spec,
    )
    return train_vision(mllm, plain, lessons=lessons, progress=progress)


def _read(mllm: Mllm, config: MechanismConfig, progress: bool) -> History:
    """The text stage; at first every row has a rationale or repeats what was said."""
    teacher = _Teacher(mllm, config, 5)
    steps = itertools.count()

    def loss() -> Tensor:
        early = next(steps) < config.pointed * config.text_steps
        rows = [
            teacher.text(repeat=0.5 if early else 0.1, direct=0.0 if early else 0.25)
            for _ in range(config.batch_size)
        ]
        if early:
            return _copying_loss(mllm, rows, config)
        return response_loss(mllm, rows, _plain(config), grounded=False)

    return _stage(mllm, "text", config.text_steps, config, loss, progress, frozen=_SEEING)


def _align(mllm: Mllm, config: MechanismConfig, progress: bool) -> History:
    """The alignment stage: descriptions first, then direct answers; text all along."""
    teacher = _Teacher(mllm, config, 6)
    steps = itertools.count()

    def loss() -> Tensor:
        step = next(steps)
        captions = (0.7, 0.3) if step < config.describing else (config.captions, config.lookups)
        rows = [teacher.picture(*captions) for _ in range(config.batch_size)]
        rows.sort(key=lambda row: not row.sources)
        pointed = step < config.pointed * config.align_steps and bool(rows[0].sources)
        # In turns, since rows with and without a picture do not go into one batch.
        text = [
            teacher.text(repeat=0.0, direct=0.25, pictured=step % 2 == 1)
            for _ in range(config.replay)
        ]
        seen = response_loss(mllm, rows, _plain(config), grounded=pointed)
        share = config.replay / config.batch_size
        return seen + share * response_loss(mllm, text, _plain(config), grounded=False)

    return _stage(mllm, "alignment", config.align_steps, config, loss, progress, frozen=_TOWER)


def _stage(
    mllm: Mllm,
    name: str,
    steps: int,
    config: MechanismConfig,
    loss: Callable[[], Tensor],
    progress: bool,
    frozen: re.Pattern[str],
) -> History:
    kept = [p for name, p in mllm.model.named_parameters() if frozen.search(name)]
    learned = [p for name, p in mllm.model.named_parameters() if not frozen.search(name)]
    optimizers = optimizers_of(mllm.model, config.learning_rate, only=learned)
    mllm.model.train()
    for parameter in kept:
        parameter.requires_grad_(False)
    with attached(mllm.model):
        history = run_stage(name, steps, optimizers, loss, progress)
    for parameter in kept:
        parameter.requires_grad_(True)
    mllm.model.eval()
    return history


def _plain(config: MechanismConfig) -> BuildConfig:
    return BuildConfig(spec=config.spec, answer_weight=config.answer_weight)


class _Teacher:
    """Draws what a batch consists of."""

    def __init__(self, mllm: Mllm, config: MechanismConfig, stage: int) -> None:
        self._mllm, self._config = mllm, config
        self._rng = np.random.default_rng([config.seed, stage])
        self._problems = [_endless(kind, config.seed * 10 + stage) for kind in config.kinds]

    def text(self, *, repeat: float, direct: float, pictured: bool = False) -> Row:
        """A scene in words, and a rationale, a direct answer or the words again.

        Args:
            repeat: Share of the last.
            direct: Share of direct answers among the rest.
            pictured: Put the scene's picture before its words, which hold all of it.
        """
        problem = next(pick(self._rng, self._problems))
        words = str(problem.metadata["words"])
        chance = self._rng.random()
        if chance < repeat:
            question, lines, _ = self._description(problem, all_of_it=True)
            return self._row(None, f"{words}\n{question}", "\n".join(lines))
        mode: Mode = "direct" if self._rng.random() < direct else "cot"
        steps = problem.steps if mode == "cot" else ()
        messages = build_messages(f"{words}\n{problem.question}", mode, n_images=int(pictured))
        prompt = chat_prompt(self._mllm, messages)
        return Row(
            problem.image if pictured else None,
            prompt,
            render_response(steps, problem.answer),
        )

    def picture(self, captions: float, lookups: float) -> Row:
        """A picture, and a description, something to look up, or its problem's answer."""
        problem = next(pick(self._rng, self._problems))
        chance = self._rng.random()
        if chance < captions:
            question, lines, sources = self._description(problem)
            return self._row(problem.image, question, "\n".join(lines), sources)
        question, answer = problem.question, problem.answer
        steps: tuple[Step, ...] = ()
        if chance < captions + lookups:
            question, answer = self._lookup(problem)
        elif self._rng.random() < self._config.image_cot:
            steps = problem.steps
        messages = build_messages(question, "cot" if steps else "direct")
        return Row(problem.image, chat_prompt(self._mllm, messages), render_response(steps, answer))

    def _row(
        self,
        image: Image.Image | None,
        question: str,
        response: str,
        sources: Sequence[Source] = (),
    ) -> Row:
        pictures = [] if image is None else [{"type": "image"}]
        content = [*pictures, {"type": "text", "text": question}]
        prompt = chat_prompt(self._mllm, [{"role": "user", "content": content}])
        return Row(image, prompt, response, sources)

    def _description(
        self, problem: Problem, *, all_of_it: bool = False
    ) -> tuple[str, list[str], list[Source]]:
        """What is asked for, a line for each, and where each is to be seen."""
        words = str(problem.metadata["words"])
        facts = [*_PIECE.finditer(words), *_BAR.finditer(words)]
        chosen = shuffled(self._rng, facts)
        chosen = chosen if all_of_it else chosen[:3]
        names = [fact[1] for fact in chosen]
        if chosen[0].re is _BAR:
            columns = str(problem.metadata["columns"]).split()
            question = f"Describe the {', '.join(names)} bars."
            boxes = [bar_box(columns, name) for name in names]
        else:
            question = f"Describe the {', the '.join(names)}."
            boxes = [cell_box(("abc".index(fact[2]), int(fact[3]) - 1)) for fact in chosen]
        lines = [f"{number}. {fact[0]}" for number, fact in enumerate(chosen, start=1)]
        return question, lines, [Source(box) for box in boxes]

    def _lookup(self, problem: Problem) -> tuple[str, str]:
        words = str(problem.metadata["words"])
        if bars := _BAR.findall(words):
            colour, value = pick(self._rng, bars)
            return f"how high is the {colour} bar?", value
        shape, column, row, colour = pick(self._rng, _PIECE.findall(words))
        return pick(
            self._rng,
            [
                (f"which colour is the {shape}?", colour),
                (f"which column is the {shape} in?", column),
                (f"which row is the {shape} in?", row),
                (f"which piece is in {column}{row}?", shape),
                (f"which colour is the piece in {column}{row}?", colour),
            ],
        )


def _endless(kind: Knobs, seed: int) -> Iterator[Problem]:
    """Balanced problems in every clarity from crisp to all of the noise."""
    levels = np.random.default_rng([seed, 3]).uniform(0, 1, 64)
    generate = generator_of(kind)
    for block in itertools.count():
        for at, level in enumerate(levels):
            drawn_by = seed * 100_000 + block * len(levels) + at
            yield from generate(
                8, replace(kind, noise=float(level) * kind.noise), seed=drawn_by, split="pretrain"
            )


def _copying_loss(mllm: Mllm, rows: Sequence[Row], config: MechanismConfig) -> Tensor:
    """That of the responses, and -log of the attention from copied words to where they stand."""
    batch = batch_of(mllm, rows)
    labels, ids = batch.pop("labels"), batch["input_ids"]
    places, groups, cols = _copied(mllm, ids, labels)
    probe = Probe((config.spec.text_layers // 2,))
    extra = {"attcot_probe": probe, "attcot_rows": places, "attcot_cols": cols}
    logits = mllm.model(**batch, **extra).logits[:, :-1]
    loss = weighted_loss(mllm, logits, ids, labels, config.answer_weight)
    for mass in probe.masses(differentiable=True).values():
        half = mass[:, : config.spec.heads // 2]
        own = half.gather(3, groups[:, None, :, None].expand(*half.shape[:3], 1))[..., 0]
        loss = loss - (own.transpose(1, 2)[places >= 0] + 1e-12).log().mean()
    return loss


def _copied(mllm: Mllm, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which words of a response stand in its prompt's description, and where.

    A word of a line is copied from the one sentence that holds it and all such words before it in
    the line. Answers are no lines.

    Args:
        mllm: Whose tokenizer wrote the ids.
        ids: ``(B, T)``.
        labels: ``(B, T)``.

    Returns:
        Rows that predict a copied word, ``(B, R)``, -1 beyond an item's; which column of the third
        it is copied from, ``(B, R)``; and per place a column, ``(B, T, 8)``.
    """
    spelt = {mllm.tokenizer.convert_ids_to_tokens(int(one)): int(one) for one in ids.unique()}
    telling = {*COLOURS, *SHAPES, *"abc12345"}
    known = {at for word, at in spelt.items() if word.strip("Ġ▁") in telling}
    ends = {at for word, at in spelt.items() if "." in word or "Ċ" in word or "</" in word}
    cols = torch.zeros(*ids.shape, _GROUPS)
    rows: list[Tensor] = []
    groups: list[Tensor] = []
    for item in range(len(ids)):
        tokens = ids[item].tolist()
        first = int((labels[item] != IGNORED).nonzero()[0])
        sentences: list[list[int]] = [[]]
        for at in range(first):
            if tokens[at] in known:
                sentences[-1].append(at)
            elif tokens[at] in ends:
                sentences.append([])
        own: dict[int, int] = {}
        row: list[int] = []
        group: list[int] = []
        line: list[int] = []
        for at in range(first, len(tokens)):
            if tokens[at] in ends:
                line = []
            elif tokens[at] in known and labels[item, at] != IGNORED:
                line.append(tokens[at])
                found = [s for s in sentences if set(line) <= {tokens[place] for place in s}]
                if len(line) > 1 and len(found) == 1:
                    source = next(s for s in found[0] if tokens[s] == tokens[at])
                    if source in own or len(own) < _GROUPS:
                        group.append(own.setdefault(source, len(own)))
                        cols[item, source, own[source]] = 1.0
                        row.append(at - 1)
        rows.append(torch.tensor(row, dtype=torch.long))
        groups.append(torch.tensor(group, dtype=torch.long))
    pad = nn.utils.rnn.pad_sequence
    return (
        pad(rows, batch_first=True, padding_value=-1),
        pad(groups, batch_first=True, padding_value=0),
        cols,
    )


def _sentences(kinds: Sequence[Knobs]) -> list[str]:
    """What the tokenizer is trained on, so that words become tokens."""
    texts = []
    for kind in kinds:
        for problem in generator_of(kind)(300, replace(kind, noise=0.0), split="pretrain"):
            texts += [problem.question, str(problem.metadata["words"])]
            texts.append(render_response(problem.steps, problem.answer))
    asked = "which colour is the piece? which column is it in? which row? how high is the bar?"
    texts += [asked, "Describe the star, the circle, the cross bars."] * 50
    return texts + list(PROMPTS.values()) * 50 + ["user assistant\nUSER: ASSISTANT:"] * 50
