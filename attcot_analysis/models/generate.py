"""Free-running responses: batched greedy or sampled generation."""

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, cast, get_args

import torch
from tqdm.auto import tqdm
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
)

from attcot_analysis.errors import MeasureError, ModelError, check_numbers
from attcot_analysis.models.inputs import Encoded, collate
from attcot_analysis.models.load import Mllm, evaluating

Sampling = Literal["recommended"]

OnToken = Callable[[list[int]], bool | None]
"""Takes the newest token of each prompt; true ends the generation."""

RECOMMENDED = ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")
"""What of a checkpoint's generation config is taken as its publisher's recommendation."""
_COSTS = frozenset(
    (
        *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "low_memory"),
        *("prefill_chunk_size", "compile_config", "disable_compile", "continuous_batching_config"),
        *("renormalize_logits", "use_mtp", "speculation_type", "is_assistant"),
        *("num_assistant_tokens", "num_assistant_tokens_schedule"),
        *("assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind"),
        *("target_lookbehind", "prompt_lookup_num_tokens", "max_matching_ngram_size"),
    )
)
"""How a token is computed, which does not change the distribution it is drawn from."""
_OURS = frozenset(
    (
        *("max_length", "max_new_tokens", "pad_token_id", "bos_token_id", "eos_token_id"),
        *("decoder_start_token_id", "output_attentions", "output_hidden_states", "output_scores"),
        *("output_logits", "return_dict_in_generate", "_from_model_config", "transformers_version"),
    )
)
"""What the call itself sets (the end tokens are read from there), and what it returns."""
_ONLY_BEAMS = frozenset(["early_stopping", "length_penalty", "diversity_penalty"])
"""What nothing but beam search reads; asking for beams is refused by itself."""
_OFF: Mapping[str, float] = {
    **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences"), 1),
    **dict.fromkeys(("typical_p", "encoder_repetition_penalty", "guidance_scale"), 1.0),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length"), 0),
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff", "min_new_tokens"), 0),
    **dict.fromkeys(("remove_invalid_values", "token_healing"), False),
}
"""Values with which a setting does nothing."""


@dataclass(frozen=True)
class Generation:
    """One generated response.

    Attributes:
        ids: Its token ids, without end and padding tokens.
        text: The same as text, tags included; also the ``<think>`` that a chat template wrote in
            the model's stead.
        finished: Whether the model ended it; else it was cut at the length limit.
    """

    ids: tuple[int, ...]
    text: str
    finished: bool


@torch.no_grad()
def generate(
    mllm: Mllm,
    prompts: Sequence[Encoded],
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    sampling: Sampling | None = None,
    batch_size: int = 32,
    seed: int | Sequence[int] = 0,
    progress: bool = False,
    on_token: OnToken | None = None,
) -> list[Generation]:
    """Let the model respond to prompts, batched with left padding.

    The checkpoint's own generation settings (repetition penalty, top-k and so on) are used only if
    asked for, and it cannot write image tokens, so that any response can be encoded again.

    Args:
        mllm: The model.
        prompts: Encoded prompts; a response they already hold is continued.
        max_new_tokens: Length limit.
        temperature: 0 for greedy, else sampling from the full distribution at this temperature.
        sampling: ``"recommended"`` uses, in place of a temperature, what the checkpoint's
            publisher recommends; see `recommended_sampling`.
        batch_size: Prompts per batch.
        seed: For sampling; results also depend on ``batch_size``. Of several, the prompts are
            answered with each; a model that shares prefixes writes as many of these together as a
            batch holds.
        progress: Show a progress bar.
        on_token: Called after every token with the newest of each prompt of the batch; where it
            returns true, the batch is ended there.

    Returns:
        One `Generation` per prompt, in order; of several seeds those of one after the other.

    Warns:
        UserWarning: If a batch took longer than ``mllm.max_seconds``; says how many were cut.

    Raises:
        ModelError: If the model's logits are no numbers, or it comes with no recommendation that
            can be used.
        MeasureError: If ``mllm.max_seconds`` is not above 0.
    """
    seeds = list(seed) if isinstance(seed, Sequence) else [seed]
    for one in seeds:
        check_numbers(batch_size=batch_size, max_new_tokens=max_new_tokens, seed=one)
    if not mllm.max_seconds > 0:
        raise MeasureError(f"max_seconds is {mllm.max_seconds}; give a number above 0.")
    model = mllm.model
    stop = mllm.stop_ids
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        **_drawing(mllm, temperature, sampling),
        eos_token_id=list(stop),
        pad_token_id=mllm.tokenizer.pad_token_id,
        suppress_tokens=image_ids(mllm),
        use_cache=True,
        max_time=mllm.max_seconds,
    )
    results: dict[int, list[Generation]] = {at: [] for at in range(len(seeds))}
    batches = [
        (start, prompts[start : start + batch_size]) for start in range(0, len(prompts), batch_size)
    ]
    with evaluating(model):
        for start, chunk in tqdm(batches, desc="generate", disable=not progress):
            wanted = sampling is None and on_token is None and mllm.prefixes is not None
            shared = wanted and mllm.prefixes.shares(mllm, chunk)
            for numbers in _together(len(seeds), batch_size // len(chunk) if shared else 1):
                watch = _Watch()
                devices = [mllm.device] if mllm.device.type == "cuda" else []
                with torch.random.fork_rng(devices=devices), only_settings(model, settings):
                    if shared:
                        new = mllm.prefixes.write(
                            mllm,
                            chunk,
                            max_new_tokens=max_new_tokens,
                            temperature=temperature,
                            seeds=[seeds[at] + start for at in numbers],
                            banned=image_ids(mllm),
                            watch=watch,
                        )
                    else:
                        torch.manual_seed(seeds[numbers[0]] + start)
                        batch = collate(mllm, chunk, padding_side="left")
                        output = model.generate(
                            **batch,
                            generation_config=settings,
                            logits_processor=LogitsProcessorList([watch]),
                            stopping_criteria=None if on_token is None else [_Told(on_token)],
                        )
                        new = output[:, batch["input_ids"].shape[1] :].tolist()
                watch.check(mllm)
                cut = [row for row in new if on_token is None and not set(stop) & set(row)]
                if cut and len(cut[0]) < max_new_tokens:
                    warnings.warn(
                        f"{len(cut)} responses were cut after {mllm.max_seconds:g} seconds, at "
                        f"{len(cut[0])} of {max_new_tokens} tokens; raise max_seconds "
                        "(--max-seconds), or give a smaller batch, in a new run folder: one that "
                        "is resumed keeps the responses that it has.",
                        stacklevel=2,
                    )
                for row, (at, prompt) in zip(new, product(numbers, chunk), strict=True):
                    opened = prompt.opened and not prompt.response_ids
                    results[at].append(_generation(mllm, row, stop, opened=opened))
    return [one for at in results for one in results[at]]


def _together(n: int, size: int) -> list[range]:
    """Numbers 0 to n − 1, at most so many at a time."""
    return [range(start, min(start + size, n)) for start in range(0, n, size)]


def recommended_sampling(mllm: Mllm) -> dict[str, bool | float | int]:
    """What a checkpoint's generation config says about drawing a token, value by value.

    Those of `RECOMMENDED` that it sets, as `transformers` applies them: without ``do_sample``
    tokens are not drawn, so that only the repetition penalty counts. What it leaves open is off:
    `transformers`' own default of ``top_k`` is nobody's recommendation.

    Raises:
        ModelError: If it sets none of them, or something else that changes what is written (beams,
            bans, biases), which is not one distribution to draw tokens from.
    """
    config = getattr(mllm.model, "generation_config", None)
    own = {} if config is None else vars(config)
    found = {name: own[name] for name in RECOMMENDED if own.get(name) is not None}
    if not found:
        raise ModelError(
            f"{mllm.name} recommends no sampling: its generation config sets none of "
            f"{', '.join(RECOMMENDED)}; give a temperature instead."
        )
    known = {*RECOMMENDED, *_COSTS, *_OURS, *_ONLY_BEAMS}
    others = [
        name
        for name in vars(GenerationConfig())
        if name not in known and own.get(name) is not None and own[name] != _OFF.get(name)
    ]
    if others:
        raise ModelError(
            f"What {mllm.name} recommends cannot be used: its generation config also sets "
            f"{', '.join(others)}; take them out of it, or give a temperature instead."
        )
    if not found.get("do_sample"):
        penalty = {k: v for k, v in found.items() if k == "repetition_penalty"}
        return {"do_sample": False, **penalty}
    return found


@contextlib.contextmanager
def only_settings(model: torch.nn.Module, settings: GenerationConfig) -> Iterator[None]:
    """Generate with these settings alone.

    `transformers` fills what they leave open from the checkpoint's own generation config: beams,
    bans, biases, stop strings. Wrappers (PEFT) hold one of their own. A ``generate`` that came
    with the checkpoint's own code is set aside, too.
    """
    owners = [module for module in model.modules() if "generation_config" in vars(module)]
    before = [module.generation_config for module in owners]
    shipped = [(vars(m), vars(m).pop("generate")) for m in model.modules() if "generate" in vars(m)]
    for module in owners:
        module.generation_config = copy.deepcopy(settings)  # type: ignore[assignment]
    try:
        yield
    finally:
        for module, own in zip(owners, before, strict=True):
            module.generation_config = own
        for attributes, own in shipped:
            attributes["generate"] = own


class _Told(StoppingCriteria):
    """Tells of every token, and ends a batch that is no longer wanted."""

    def __init__(self, told: OnToken) -> None:
        self._told = told

    def __call__(
        self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any
    ) -> torch.BoolTensor:
        stop = bool(self._told(input_ids[:, -1].tolist()))
        ended = torch.full((len(input_ids),), stop, device=input_ids.device)
        return cast(torch.BoolTensor, ended)


class _Watch(LogitsProcessor):
    """Sees whether logits are numbers, without waiting for the device at every token."""

    def __init__(self) -> None:
        self._bad: torch.Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        bad = (scores.isnan() | scores.isposinf()).any()
        self._bad = bad if self._bad is None else self._bad | bad
        return scores

    def check(self, mllm: Mllm) -> None:
        if self._bad is not None and bool(self._bad):
            raise ModelError(
                f"The logits of {mllm.name} are not finite, so its responses mean nothing; check "
                "its weights and dtype (fp16 overflows where bf16 does not)."
            )


def _drawing(mllm: Mllm, temperature: float, sampling: Sampling | None) -> dict[str, Any]:
    """How a token is chosen: every setting of `RECOMMENDED`, by name."""
    check_sampling(temperature, sampling)
    chosen: dict[str, Any] = {"do_sample": temperature > 0, "repetition_penalty": 1.0}
    if sampling is not None:
        chosen |= recommended_sampling(mllm)
    elif temperature > 0:
        chosen["temperature"] = temperature
    if chosen["do_sample"]:
        chosen = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, **chosen}
    return chosen


def check_sampling(temperature: float, sampling: str | None) -> None:
    """See that a temperature and a way of sampling go together.

    Raises:
        MeasureError: If they do not.
    """
    if sampling not in (None, *get_args(Sampling)):
        raise MeasureError(f"sampling is {sampling!r}; give 'recommended', or a temperature.")
    # Logits over less are no numbers any more.
    if temperature and not 1e-6 <= temperature < float("inf"):
        raise MeasureError(
            f"temperature is {temperature}; give 0 for greedy, or a number from 0.000001."
        )
    if sampling is not None and temperature:
        raise MeasureError(
            f"sampling {sampling!r} brings a temperature of its own, so {temperature} cannot be "
            "used beside it; give one of the two."
        )


def image_ids(mllm: Mllm) -> list[int]:
    """What stands for pictures and videos, of what the model has logits for (Molmo 2 has none)."""
    config = mllm.model.config
    found = [getattr(config, name, None) for name in ("video_token_id", "video_token_index")]
    ids = dict.fromkeys([mllm.image_token_id, *(int(i) for i in found if i is not None)])
    return [one for one in ids if one < mllm.text_config.vocab_size]


def _generation(mllm: Mllm, row: Sequence[int], stop: Sequence[int], *, opened: bool) -> Generation:
    end = next((index for index, token in enumerate(row) if token in stop), len(row))
    ids = tuple(row[:end])
    text = mllm.decode(ids)
    text = mllm.format.with_opening(text) if opened else text
    return Generation(ids=ids, text=text, finished=end < len(row))
