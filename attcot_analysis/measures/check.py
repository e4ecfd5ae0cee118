"""`check_model`: does everything that we measure with hold on this checkpoint?"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor

import attcot_analysis
from attcot_analysis.attention.hook import attached, intervening, reading, running
from attcot_analysis.attention.kinds import keeps_state, layer_kinds, require_no_state
from attcot_analysis.attention.knockout import Knockout
from attcot_analysis.attention.packing import (
    candidate_tokens,
    forced_answers,
    require_forced,
    require_packable,
)
from attcot_analysis.attention.probe import Probe, read_masses
from attcot_analysis.errors import AttCoTError, MeasureError, ModelError, lacks_memory, one_line
from attcot_analysis.measures.painting import paintable_tokens, painted_tokens
from attcot_analysis.models import (
    Encoded,
    Mllm,
    Mode,
    Span,
    TokenGrid,
    collate,
    encode,
    evaluating,
    generate,
    load_mllm,
    positions,
)
from attcot_analysis.models.generate import image_ids
from attcot_analysis.models.inputs import last_row
from attcot_analysis.models.load import hidden_states, text_stack
from attcot_analysis.models.processors import settings_file
from attcot_analysis.problems.formats import TAGS, ResponseFormat

_T = TypeVar("_T")


class _CannotError(Exception):
    """What is checked is refused on such a model, by name, so that no number can be wrong."""


QUESTION = "Start at the star and follow the arrow. What color is the shape you reach?"

STEPS = (
    "The star is in cell a1 and its arrow points right.",
    "Cell b1 holds a red circle, and its arrow points down.",
    "Cell b2 holds a green square.",
)

ANSWER = "green"

ANSWERS = (ANSWER, "A", "No", "-3", "(B)", "5%")
"""Answers that some tokenizers join with the tags around them."""


N_SIZES = 12

LARGEST_RATIO = 6.0


PAINTED_SIZES = ((160, 110), (100, 230), (420, 300))

PAINTED_TOKENS = 6

LEAST_HITS = 0.75
"""Share of painted tokens that must move most; towers that mix tokens strongly miss a few."""


def noise_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def example(mllm: Mllm, size: tuple[int, int] = (120, 90), response: str | None = None) -> Encoded:
    """A picture of noise, a question and a response; default one with `STEPS`."""
    if response is None:
        response = mllm.format.render(STEPS, ANSWER)
    return encode(mllm, noise_picture(*size), QUESTION, response=response)


def random_sizes(n: int, seed: int = 0) -> list[tuple[int, int]]:
    """Sizes ``(width, height)`` of pictures from small to large and from wide to high."""
    rng = np.random.default_rng(seed)
    area = np.exp(rng.uniform(np.log(40**2), np.log(600**2), n))
    ratio = np.exp(rng.uniform(-np.log(LARGEST_RATIO), np.log(LARGEST_RATIO), n))
    widths, heights = np.sqrt(area * ratio), np.sqrt(area / ratio)
    return [(round(w), round(h)) for w, h in zip(widths, heights, strict=True)]


def prompt_renders(mllm: Mllm) -> str:
    """Both modes, with and without a picture, hold the question and the instruction."""
    lengths = []
    opens = ", opens the rationale itself" if mllm.opens_rationale else ""
    modes: tuple[Mode, ...] = ("cot", "direct")
    for mode in modes:
        instruction = mllm.format.instruction(mode)
        for picture in (noise_picture(120, 90), None):
            item = encode(mllm, picture, QUESTION, mode=mode)
            text = mllm.tokenizer.decode(item.input_ids)
            for part in (QUESTION, instruction):
                if part not in text:
                    raise MeasureError(
                        f"The rendered {mode} prompt does not hold {part!r}; check the chat "
                        "template and the tokenizer."
                    )
            if (picture is None) != (len(item.layout.image) == 0):
                raise MeasureError(
                    f"The {mode} prompt {'without' if picture is None else 'with'} a picture has "
                    f"{len(item.layout.image)} image tokens; check the chat template."
                )
            lengths.append(item.prompt_length)
    tokens = f"{lengths[0]} tokens with a picture, {lengths[1]} without"
    return f"chat template renders{opens}; {tokens}"


def image_tokens_match_grids(mllm: Mllm) -> str:
    """For random sizes, as many image tokens as the grid says, and boxes on the picture."""
    counts = []
    for width, height in random_sizes(N_SIZES):
        item = encode(mllm, noise_picture(width, height), QUESTION)
        (grid,) = item.layout.grids
        n_placeholders = int((item.input_ids == mllm.image_token_id).sum())
        if n_placeholders != grid.n_placeholders or len(item.layout.image) != len(grid):
            raise MeasureError(
                f"A picture of {width} x {height} pixels has {n_placeholders} image tokens; its "
                f"grid says {grid.n_placeholders}."
            )
        _check_boxes(grid, (width, height))
        counts.append(len(grid))
    return f"{len(counts)} picture sizes, {min(counts)} to {max(counts)} tokens with a box"


def painted_boxes_move_their_tokens(mllm: Mllm) -> str:
    """Change the pixels of one token's box: its vision feature must move most."""
    hits: list[bool] = []
    for seed, size in enumerate(PAINTED_SIZES):
        picture = noise_picture(*size, seed)
        (grid,) = encode(mllm, picture, "").layout.grids
        places = paintable_tokens(grid, PAINTED_TOKENS, seed=seed)
        hits += painted_tokens(mllm, picture, places)["hit"].tolist()
    found = f"{sum(hits)} of {len(hits)} painted boxes move their own token most"
    if not hits or np.mean(hits) < LEAST_HITS:
        raise MeasureError(
            f"Only {found}; the map from image tokens to pixels is wrong for this checkpoint."
        )
    return found


def spans_are_found(mllm: Mllm) -> str:
    """Steps and answers of responses decode to what was written, to the token."""
    joined = []
    for answer in ANSWERS:
        response = mllm.format.render(STEPS, answer)
        item = encode(mllm, None, QUESTION, response=response)
        layout = item.layout

        def text(span: Span, ids: Tensor = item.input_ids) -> str:
            return str(mllm.tokenizer.decode(ids[span.start : span.stop])).strip()

        expected = [f"{number}. {step}" for number, step in enumerate(STEPS, start=1)]
        _check_texts("steps", [text(step) for step in layout.steps], expected)
        found = "" if layout.answer is None else text(layout.answer)
        if layout.answer is None or answer not in found:
            _check_texts("answer", [found], [answer])
        else:
            start, stop = layout.answer
            fewer = [text(Span(start + 1, stop)), text(Span(start, stop - 1))]
            _check_texts("answer", [one for one in fewer if answer in one], [])
        if found != answer:
            joined.append(f"{answer!r} in {found!r}")
        written = mllm.tokenizer.decode(item.input_ids[item.prompt_length :])
        whole = mllm.format.without_opening(response) if item.opened else response
        _check_texts("whole text", [str(written).strip()], [whole.strip()])
    return "; ".join([f"{len(STEPS)} steps, {len(ANSWERS)} answers", *joined])


def format_round_trips(mllm: Mllm) -> str:
    """A response in the model's format, as tokens and back, is read as it was written."""
    for answer in ANSWERS:
        response = mllm.format.render(STEPS, answer)
        item = encode(mllm, None, QUESTION, response=response, end=True)
        read = mllm.parse(item.response_ids)
        _check_texts("steps", [text.split(". ", 1)[-1] for text in read.step_texts], STEPS)
        _check_texts("answer", ["" if read.answer is None else read.answer], [answer])
    return f"{len(ANSWERS)} responses come back with their {len(STEPS)} steps"


def _check_boxes(grid: TokenGrid, size: tuple[int, int]) -> None:
    if grid.image_size != size:
        raise MeasureError(f"The grid is of a picture of {grid.image_size} pixels; it has {size}.")
    low, high = grid.boxes[:, :2], grid.boxes[:, 2:]
    centre = np.array(size) / 2
    if not (high > low).all() or not ((low <= centre) & (centre <= high)).all(1).any():
        raise MeasureError(
            f"Boxes of a picture of {size[0]} x {size[1]} pixels are empty or miss its centre."
        )


def _check_texts(what: str, found: Sequence[str], expected: Sequence[str]) -> None:
    if list(found) != list(expected):
        raise MeasureError(
            f"Looking for the {what} of a response finds {list(found)}; expected {list(expected)}."
        )


MASS_TOLERANCE, LOG_P_TOLERANCE = 1e-4, 1e-2
"""Largest differences allowed where all weights are held in fp32 or better."""

HALF_MASS_TOLERANCE, HALF_LOG_P_TOLERANCE = 0.05, 0.5
"""The same where some are held in half precision or quantised."""


NEW_TOKENS = 8


CANDIDATES = (
    ("Yes", "No"),
    ("A", "Q", "red"),
    ("-3", "3"),
    ("(B)", "B"),
    ("Monday", "Tuesday"),
    ("10", "100"),
)
"""Sets of candidates that tokenizers cut in unlike ways."""


def rows_sum_to_one(mllm: Mllm) -> str:
    """All rows' mass on all real keys of a left-padded batch is 1, in every layer read."""
    batch = collate(mllm, _two_items(mllm), padding_side="left")
    real = batch["attention_mask"].bool()
    rows = torch.where(real, torch.arange(real.shape[1], device=real.device), -1)
    masses = read_masses(mllm, batch, real[..., None].float(), rows)
    worst = max(
        float((mass[..., 0] - real[:, None].float()).abs().max()) for mass in masses.values()
    )
    _require("a row's mass on all keys is off 1", worst, _mass_tolerance(mllm))
    return f"largest error {worst:.1e}, {len(masses)} of {mllm.n_layers} layers read"


def probe_is_eager(mllm: Mllm) -> str:
    """Masses on the image equal those of eager attention, row by row."""
    batch = collate(mllm, _two_items(mllm), padding_side="left")
    real = batch["attention_mask"].bool()
    image = (batch["input_ids"] == mllm.image_token_id)[..., None].float()
    rows = torch.where(real, torch.arange(real.shape[1], device=real.device), -1)
    found = read_masses(mllm, batch, image, rows)
    expected = _eager_masses(mllm, batch, image)
    missing = found.keys() - expected.keys()
    if missing:
        raise MeasureError(
            f"Eager attention gives no weights for layers {sorted(missing)}; the model class "
            "does not return them, so the probe cannot be checked."
        )
    worst = max(
        float((mass[..., 0] - expected[layer][..., 0]).abs().mul(real[:, None]).max())
        for layer, mass in found.items()
    )
    _require("a mass differs from eager attention's", worst, _mass_tolerance(mllm))
    return f"largest difference {worst:.1e}, {len(found)} layers x {mllm.n_heads} heads"


def batched_is_single(mllm: Mllm) -> str:
    """Log-probabilities of an item do not depend on what it is batched with, padded left or right.

    Positions are handed over, as measurements with a block mask do it, and so checked as well.
    """
    items = _two_items(mllm)
    alone = [_log_probs(mllm, collate(mllm, [item]), _last(item)) for item in items]
    worst = 0.0
    for side in ("right", "left"):
        batch = collate(mllm, items, padding_side=side)
        batch["position_ids"] = positions(mllm, batch)
        for at, item in enumerate(items):
            padding = batch["input_ids"].shape[1] - len(item.input_ids)
            keep = _last(item) + (padding if side == "left" else 0)
            together = _log_probs(mllm, batch, keep)[at]
            worst = max(worst, float((together - alone[at][0]).abs().max()))
    _require("a log-probability changes in a batch", worst, _log_p_tolerance(mllm))
    return f"largest difference of log p {worst:.1e}, both padding sides"


def candidates_are_their_texts(mllm: Mllm) -> str:
    """Forced answers equal one plain forward pass per candidate over its whole text.

    The candidates are such as tokenizers cut unlike: some join the tag before or behind them.
    """
    _able(require_forced, mllm)
    item = example(mllm)
    head = item.input_ids[: item.layout.step_ends[-1]]
    tokens = [candidate_tokens(mllm, candidates) for candidates in CANDIDATES]
    packed = forced_answers(
        mllm, [item] * len(tokens), tokens, steps=[[item.layout.n_steps]] * len(tokens)
    )
    worst, joined = 0.0, 0
    form = mllm.format
    opening = "\n"
    before = opening + item.layout.cuts[-1].rest + form.cue
    for own, values in zip(tokens, packed, strict=True):
        texts = [f"{before}{one}{form.close}" for one in form.forced(own.candidates)]
        ids = [mllm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        behind = len(mllm.tokenizer(opening, add_special_tokens=False)["input_ids"])
        same = next(at for at, column in enumerate(zip(*ids, strict=False)) if len({*column}) > 1)
        joined += same < len(mllm.tokenizer(before, add_special_tokens=False)["input_ids"])
        for whole, value in zip(ids, values[0].tolist(), strict=True):
            expected = _whole_log_p(mllm, item, head, whole[behind:], len(whole) - same)
            worst = max(worst, abs(value - expected))
    _require("a candidate's log-probability is off that of its text", worst, _log_p_tolerance(mllm))
    found = f"{len(tokens)} sets, {joined} of them joined with the tag, largest error {worst:.1e}"
    return found + _led_by_space(mllm, item)


def packed_is_one_by_one(mllm: Mllm) -> str:
    """Answers forced after all steps at once equal those forced after each of them alone."""
    _able(require_forced, mllm)
    item, tokens = example(mllm), candidate_tokens(mllm, CANDIDATES[0])
    (together,) = forced_answers(mllm, [item], [tokens])
    alone = torch.cat(
        [forced_answers(mllm, [item], [tokens], steps=[[k]])[0] for k in range(len(together))]
    )
    worst = float((together - alone).abs().max())
    _require("a forced answer depends on the others:", worst, _log_p_tolerance(mllm))
    how = "in turn, on copies of the cache" if keeps_state(mllm) else "in one pass"
    return f"after {len(together)} steps {how}, largest difference {worst:.1e}"


def every_layer_attends(mllm: Mllm) -> str:
    """Relevance follows attention through all layers, so that none may carry tokens otherwise."""
    instead = "read attention itself, layer by layer"
    _able(require_no_state, mllm, "Relevance through all layers", instead)
    kinds = layer_kinds(mllm)
    return ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))


def lens_is_output(mllm: Mllm) -> str:
    """The last layer's hidden state through norm and head gives the model's own logits."""
    _able(require_packable, mllm)
    stack = _able(text_stack, mllm)
    item = example(mllm)
    rows, last = _last(item).to(mllm.device), mllm.n_layers - 1
    with evaluating(mllm.model), hidden_states(stack, {last}, rows) as states:
        batch = collate(mllm, [item])
        own = mllm.model(**batch, logits_to_keep=rows, use_cache=False).logits
    stack.require_own(states[last][0], own[0])
    return f"{len(rows)} rows, {len(stack.layers)} layers"


def _able(require: Callable[..., _T], *given: Any) -> _T:
    """What a requirement gives; that it refuses the model is no fault of the model's."""
    try:
        return require(*given)
    except MeasureError as error:
        raise _CannotError(str(error)) from error


LEADS = {"a space": " ", "a line end": "\n"}
"""White space that a model may put before an answer."""


def _led_by_space(mllm: Mllm, item: Encoded) -> str:
    """Which answers the model prefers with white space before them.

    Forced answers stand right behind the cue, so a model that was trained with a space there
    gives little to all of them; a cue that ends in the space mends it.
    """
    plain = replace(mllm, format=mllm.format.model_copy(update={"options": "as given"}))
    answers = list(dict.fromkeys(one for candidates in CANDIDATES for one in candidates))
    said = ""
    for name, lead in LEADS.items():
        if mllm.format.cue.endswith(lead):
            continue
        pairs = [candidate_tokens(plain, (one, f"{lead}{one}")) for one in answers]
        read = forced_answers(
            plain, [item] * len(pairs), pairs, steps=[[item.layout.n_steps]] * len(pairs)
        )
        more = [one for one, ((own, led),) in zip(answers, read, strict=True) if led > own]
        if more:
            said += f"; with {name} before it more probable: {', '.join(map(repr, more))}"
    return said


def _whole_log_p(
    mllm: Mllm, item: Encoded, head: Tensor, behind: Sequence[int], n_read: int
) -> float:
    """Log-probability of the last tokens of a text behind a prefix, in one plain forward pass."""
    ids = torch.cat([head, torch.tensor(behind)])
    more = torch.zeros(len(ids) - item.prompt_length, dtype=torch.long)
    types = item.token_types
    if types is not None:
        types = torch.cat([types[: item.prompt_length], more])
    batch = collate(mllm, [replace(item, input_ids=ids, token_types=types)])
    with evaluating(mllm.model):
        logits = mllm.model(**batch, use_cache=False, logits_to_keep=n_read + 1).logits[0, :-1]
    read = logits.float().log_softmax(-1).gather(1, batch["input_ids"][0, -n_read:, None])
    return float(read.sum().detach())


def knockout_moves_logits(mllm: Mllm) -> str:
    """Hiding the image from the response's rows moves their log-probabilities, and no others."""
    _able(require_no_state, mllm, "A cut of attention", "use kinds=('removal',)")
    item = _two_items(mllm)[0]
    batch = collate(mllm, [item])
    image = batch["input_ids"] == mllm.image_token_id
    first = item.prompt_length - 1
    rows = torch.zeros_like(image)
    rows[:, first:] = True
    keep = torch.arange(first - 4, len(item.input_ids), device=mllm.device)
    before = _log_probs(mllm, batch, keep)
    with attached(mllm.model), intervening(Knockout(rows, image)):
        after = _log_probs(mllm, batch, keep)
    moved = (after - before).abs().amax(-1)[0]
    tolerance = _log_p_tolerance(mllm)
    _require("knockout moves a row that it does not touch:", float(moved[:4].max()), tolerance)
    if not float(moved[4:].max()) > tolerance:
        raise MeasureError(
            "Hiding the image from the whole response moves no log-probability by more than "
            f"{tolerance:g}: the response does not read the image, or its attention is not ours."
        )
    return f"log p moves by up to {float(moved[4:].max()):.2g}, rows before by at most " + (
        f"{float(moved[:4].max()):.1e}"
    )


def generation_is_teacher_forcing(mllm: Mllm) -> str:
    """A greedy response can be encoded again, and each of its tokens is the likeliest there."""
    prompt = encode(mllm, noise_picture(120, 90), QUESTION)
    (written,) = generate(mllm, [prompt], max_new_tokens=NEW_TOKENS)
    item = encode(mllm, noise_picture(120, 90), QUESTION, response=written.ids)
    if item.response_ids != written.ids or item.prompt_length != prompt.prompt_length:
        raise MeasureError("A generated response does not come back from being encoded again.")
    first = item.prompt_length - 1
    keep = torch.arange(first, len(item.input_ids), device=mllm.device)
    log_p = _log_probs(mllm, collate(mllm, [item]), keep)[0].cpu()
    log_p[:, image_ids(mllm)] = float("-inf")
    gaps = [float(row.max() - row[token]) for row, token in zip(log_p, written.ids, strict=False)]
    if written.finished:
        gaps.append(float(log_p[-1].max() - log_p[-1, list(mllm.stop_ids)].max()))
    _require("a generated token is less likely than another", max(gaps), _log_p_tolerance(mllm))
    return f"{len(written.ids)} tokens, largest gap to the likeliest {max(gaps):.1e}"


def leaves_no_trace(mllm: Mllm, before: Mapping[str, Any]) -> str:
    """Attention, hooks and modes are as before all checks, and again after an exception.

    Args:
        mllm: The model.
        before: Its `model_state` before anything was measured.
    """
    model = mllm.model
    _compare_states(before, model_state(model), "measurements")
    batch = collate(mllm, [_two_items(mllm)[0]])
    last = last_row(batch).cpu()
    nothing = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    plain = _log_probs(mllm, batch, last)

    class _PlannedError(Exception):
        pass

    with (
        contextlib.suppress(_PlannedError),
        evaluating(model),
        attached(model),
        intervening(Knockout(nothing, nothing)),
        reading(Probe()),
    ):
        raise _PlannedError
    _compare_states(before, model_state(model), "an exception")
    if not torch.equal(plain, _log_probs(mllm, batch, last)):
        raise MeasureError("The model computes something else after an exception.")
    return "attention implementation, hooks and modes restored, also after an exception"


def model_state(model: Any) -> dict[str, Any]:
    """What a measurement could leave behind on a model: attention, hooks, modes."""
    config = model.config
    configs = [config, *(getattr(config, key, None) for key in config.sub_configs)]
    return {
        "attention implementations": [getattr(c, "_attn_implementation", None) for c in configs],
        "hooks": [_hooks(module) for module in model.modules()],
        "training modes": [module.training for module in model.modules()],
    }


def _hooks(module: torch.nn.Module) -> int:
    kinds = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    owners = [str(getattr(hook, "__module__", "")) for kind in kinds for hook in kind.values()]
    # transformers leaves inactive ones of its own where it has once recorded hidden states.
    return sum(not owner.startswith("transformers.") for owner in owners)


def _two_items(mllm: Mllm) -> list[Encoded]:
    """Of different length, picture size and response."""
    long = example(mllm)
    return [long, example(mllm, (64, 96), mllm.format.render((), "red"))]


def _last(item: Encoded, n: int = 6) -> Tensor:
    return torch.arange(len(item.input_ids) - n, len(item.input_ids))


def _log_probs(mllm: Mllm, batch: Mapping[str, Tensor], keep: Tensor) -> Tensor:
    """``(B, n, V)`` in fp32 at the positions kept."""
    with evaluating(mllm.model):
        output = mllm.model(**batch, logits_to_keep=keep.to(mllm.device), use_cache=False)
    return torch.log_softmax(output.logits.float(), dim=-1)


def _eager_masses(mllm: Mllm, batch: Mapping[str, Tensor], cols: Tensor) -> dict[int, Tensor]:
    """Masses of all rows from eager weights, ``{layer: (B, H, T, C)}``.

    Taken layer by layer as the model runs, so that only one layer's weights exist at a time.
    """
    masses: dict[int, Tensor] = {}
    last = last_row(batch)

    def take(module: Any, _: Any, output: Any) -> None:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if isinstance(weights, Tensor) and weights.ndim == 4:
            masses.setdefault(module.layer_idx, weights.float() @ cols[:, None])

    model = mllm.model
    hooks = [
        module.register_forward_hook(take)
        for module in model.modules()
        if getattr(module, "layer_idx", None) is not None and getattr(module, "is_causal", True)
    ]
    try:
        with evaluating(model), running(model, "eager"):
            model(**batch, use_cache=False, logits_to_keep=last)
    finally:
        for hook in hooks:
            hook.remove()
    return masses


def _compare_states(before: Mapping[str, Any], after: Mapping[str, Any], what: str) -> None:
    for part, value in before.items():
        if after[part] != value:
            raise MeasureError(f"The model's {part} are not restored after {what}.")


def held_exactly(model: Any) -> bool:
    """Whether all weights are held in fp32 or better: none in half precision, none quantised.

    The first weight does not tell: a model in 4 bits keeps its embeddings in full.
    """
    exact = (torch.float32, torch.float64)
    if getattr(model, "is_quantized", False) or getattr(model, "hf_quantizer", None) is not None:
        return False
    return all(weight.dtype in exact for weight in model.parameters())


def _mass_tolerance(mllm: Mllm) -> float:
    return MASS_TOLERANCE if held_exactly(mllm.model) else HALF_MASS_TOLERANCE


def _log_p_tolerance(mllm: Mllm) -> float:
    return LOG_P_TOLERANCE if held_exactly(mllm.model) else HALF_LOG_P_TOLERANCE


def _require(what: str, error: float, tolerance: float) -> None:
    if not error <= tolerance:
        raise MeasureError(f"{what[0].upper()}{what[1:]} by {error:.2g}; allowed is {tolerance:g}.")


__all__ = ["CHECKS", "MEASUREMENTS", "Check", "ModelCheck", "check_model"]


CHECKS: dict[str, Callable[[Mllm], str]] = {
    "prompt": prompt_renders,
    "image tokens = grid": image_tokens_match_grids,
    "painted box moves its token": painted_boxes_move_their_tokens,
    "steps and answer found": spans_are_found,
    "format round trip": format_round_trips,
    "rows sum to 1": rows_sum_to_one,
    "probe = eager": probe_is_eager,
    "batched = single": batched_is_single,
    "candidate = its whole text": candidates_are_their_texts,
    "packed = one by one": packed_is_one_by_one,
    "knockout moves logits": knockout_moves_logits,
    "every layer attends": every_layer_attends,
    "lens = output": lens_is_output,
    "generation = teacher forcing": generation_is_teacher_forcing,
}
"""What is checked of a loaded model, in order; each returns its figures or raises.

Last of all comes whether the other checks left the model as it was.
"""

_LAST = "nothing left on the model"
_READ = ("prompt", "steps and answer found", "format round trip")
_SEEN = ("image tokens = grid", "painted box moves its token")
_FORCED = ("batched = single", "candidate = its whole text", "packed = one by one")

MEASUREMENTS: dict[str, tuple[str, ...]] = {
    "answers": (*_READ, "generation = teacher forcing"),
    "visual access": (*_READ, *_SEEN, "rows sum to 1", "probe = eager", _LAST),
    "commitment": (*_READ, *_FORCED),
    "dependence": (*_READ, *_SEEN, *_FORCED),
    "knockout": (*_READ, *_FORCED, "knockout moves logits", _LAST),
    "relevance": (*_READ, *_SEEN, "probe = eager", "every layer attends", _LAST),
    "lens": (*_READ, *_FORCED, "lens = output", _LAST),
}
"""What can be measured on a model, each with the checks that it rests on."""

Verdict = Literal["can", "cannot", "not tried"]


@dataclass(frozen=True)
class Check:
    """One verdict.

    Attributes:
        name: What should hold.
        ok: Whether it does; ``None`` where it is refused by name on such a model.
        detail: The figures, or what is wrong.
    """

    name: str
    ok: bool | None
    detail: str

    def __str__(self) -> str:
        """One line for people."""
        word = {True: "ok", False: "FAILED", None: "cannot"}[self.ok]
        return f"{word:<7} {self.name:<29} {self.detail}"


@dataclass(frozen=True)
class ModelCheck:
    """All verdicts on a model.

    Attributes:
        model: Its path or hub id.
        checks: In the order in which they ran.
        about: What was checked: class, family, model type, weights' type, kinds of layers.
    """

    model: str
    checks: tuple[Check, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether no check failed."""
        return all(check.ok is not False for check in self.checks)

    @property
    def measurements(self) -> dict[str, tuple[Verdict, str]]:
        """By measurement whether it can be trusted on this model, and if not, why."""
        found: dict[str, tuple[Verdict, str]] = {}
        checks = {check.name: check for check in self.checks}
        for name, needed in MEASUREMENTS.items():
            own = [checks[one] for one in needed if one in checks]
            failed = [f"{check.name} failed" for check in own if check.ok is False]
            refused = [check.detail for check in own if check.ok is None]
            missing = [one for one in needed if one not in checks]
            if failed or refused:
                found[name] = "cannot", [*failed, *refused][0]
            elif missing:
                found[name] = "not tried", f"{missing[0]} was not checked"
            else:
                found[name] = "can", ""
        return found

    @property
    def verdict(self) -> str:
        """The sum of it, in one sentence."""
        failed = [check.name for check in self.checks if check.ok is False]
        cannot = [name for name, (verdict, _) in self.measurements.items() if verdict == "cannot"]
        if failed:
            return (
                f"{self.model}: {len(failed)} of {len(self.checks)} checks failed "
                f"({', '.join(failed)}); do not trust measurements on it."
            )
        holding = sum(check.ok is True for check in self.checks)
        if cannot:
            return (
                f"{self.model}: {holding} of {len(self.checks)} checks hold, and none failed; "
                f"what cannot be measured on it: {', '.join(cannot)}."
            )
        return f"{self.model}: all {holding} checks hold."

    def record(self) -> dict[str, Any]:
        """All of it as JSON has it, with the versions that it was found with."""
        words = {True: "ok", False: "failed", None: "cannot"}
        return {
            "model": self.model,
            **self.about,
            "versions": {
                "attcot_analysis": attcot_analysis.__version__,
                "transformers": transformers.__version__,
                "torch": torch.__version__,
            },
            "holds": self.holds,
            "measurements": {
                name: {"verdict": verdict} | ({"why": why} if why else {})
                for name, (verdict, why) in self.measurements.items()
            },
            "checks": [
                {"name": check.name, "verdict": words[check.ok], "detail": check.detail}
                for check in self.checks
            ],
        }

    def __str__(self) -> str:
        """One line per check, then the measurements, then the verdict."""
        lines = [*map(str, self.checks), *self.lines()]
        return "\n".join([*lines, self.verdict])

    def lines(self) -> list[str]:
        """One line per measurement: can, cannot or not tried, and why."""
        return [
            f"{verdict:<9} {name}{f': {why}' if why else ''}"
            for name, (verdict, why) in self.measurements.items()
        ]


@torch.no_grad()
def check_model(
    model: Mllm | str | Path,
    *,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    format: str | Path | ResponseFormat = TAGS,
    max_pixels: int | None = None,
    max_patches: int | None = None,
    report: Callable[[Check], object] | None = None,
) -> ModelCheck:
    """Check that a model's inputs, grids and attention are what measurements take them for.

    Args:
        model: A loaded model, a folder, or a hub id.
        dtype: To load in. In fp32 the comparisons are sharp; half precision halves the memory
            and is compared with wider tolerances.
        device: As for `load_mllm`.
        revision: As for `load_mllm`.
        trust_remote_code: As for `load_mllm`.
        format: As for `load_mllm`; a loaded model has its own.
        max_pixels: As for `load_mllm`.
        max_patches: As for `load_mllm`.
        report: Called with each verdict as soon as it is there.

    Returns:
        One verdict on loading and one per check, and from them what can be measured. A check
        that raises has failed, with what it said; one that is refused on such a model has not; if
        the model does not load, that is the only verdict, and nothing was tried.
    """
    checks: list[Check] = []

    def note(check: Check) -> Check:
        checks.append(check)
        if report is not None:
            report(check)
        return check

    if isinstance(model, Mllm):
        mllm = model
    else:
        try:
            mllm = load_mllm(
                model,
                dtype=dtype,
                device=device,
                revision=revision,
                trust_remote_code=trust_remote_code,
                format=format,
                max_pixels=max_pixels,
                max_patches=max_patches,
            )
        except ModelError as error:
            note(Check("loads", False, str(error)))
            return ModelCheck(str(model), tuple(checks))
    note(Check("loads", True, _describe(mllm)))
    state = model_state(mllm.model)
    for name, check in CHECKS.items():
        note(_checked(name, check, mllm))
    note(_checked(_LAST, partial(leaves_no_trace, before=state), mllm))
    return ModelCheck(mllm.name, tuple(checks), _about(mllm))


def _checked(name: str, check: Callable[[Mllm], str], mllm: Mllm) -> Check:
    try:
        return Check(name, True, check(mllm))
    except _CannotError as error:
        return Check(name, None, str(error))
    except AttCoTError as error:
        if lacks_memory(error):
            raise
        return Check(name, False, str(error))
    # Whatever a strange checkpoint makes a library raise is a verdict on it, too.
    except Exception as error:
        if lacks_memory(error):
            raise
        return Check(name, False, f"{type(error).__name__}: {one_line(error)}")


def _about(mllm: Mllm) -> dict[str, Any]:
    kinds = layer_kinds(mllm)
    return {
        "class": type(mllm.model).__name__,
        "model_type": str(mllm.model.config.model_type),
        "family": mllm.family.name,
        "dtype": str(mllm.dtype).removeprefix("torch."),
        "exact": held_exactly(mllm.model),
        "layers": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
    }


def _describe(mllm: Mllm) -> str:
    names = ("processor_config.json", "preprocessor_config.json")
    both = all((Path(mllm.name) / name).is_file() for name in names)
    read = f"; pictures are prepared as {settings_file(mllm.name)} says" if both else ""
    return (
        f"{type(mllm.model).__name__}, family {mllm.family.name}, {mllm.n_layers} layers x "
        f"{mllm.n_heads} heads, {str(mllm.dtype).removeprefix('torch.')} on {mllm.device}{read}"
    )
