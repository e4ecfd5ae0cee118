"""Free-running responses: batched greedy or sampled generation."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from attcot_analysis.errors import ModelError
from attcot_analysis.models.inputs import Encoded, collate
from attcot_analysis.models.load import Mllm, evaluating
from attcot_analysis.problems.response import with_opening


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
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> list[Generation]:
    """Let the model respond to prompts, batched with left padding.

    The checkpoint's own generation settings (repetition penalty, top-k and so on) are not used,
    and it cannot write image tokens, so that any response can be encoded again.

    Args:
        mllm: The model.
        prompts: Encoded prompts; a response they already hold is continued.
        max_new_tokens: Length limit.
        temperature: 0 for greedy, else sampling from the full distribution at this temperature.
        batch_size: Prompts per batch.
        seed: For sampling; results also depend on ``batch_size``.
        progress: Show a progress bar.

    Returns:
        One `Generation` per prompt, in order.

    Raises:
        ModelError: If the model's logits are no numbers.
    """
    model = mllm.model
    stop = mllm.stop_ids
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        **_sampling(temperature),
        repetition_penalty=1.0,
        eos_token_id=list(stop),
        pad_token_id=mllm.tokenizer.pad_token_id,
        suppress_tokens=_image_ids(mllm),
        use_cache=True,
    )
    results: list[Generation] = []
    with evaluating(model):
        starts = range(0, len(prompts), batch_size)
        for start in tqdm(starts, desc="generate", disable=not progress):
            batch = collate(mllm, prompts[start : start + batch_size], padding_side="left")
            watch = _Watch()
            devices = [mllm.device] if mllm.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices), only_settings(model, settings):
                torch.manual_seed(seed + start)
                output = model.generate(
                    **batch,
                    generation_config=settings,
                    logits_processor=LogitsProcessorList([watch]),
                )
            watch.check(mllm)
            new = output[:, batch["input_ids"].shape[1] :].tolist()
            chunk = prompts[start : start + batch_size]
            results += [
                _generation(mllm, row, stop, opened=prompt.opened and not prompt.response_ids)
                for prompt, row in zip(chunk, new, strict=True)
            ]
    return results


@contextlib.contextmanager
def only_settings(model: torch.nn.Module, settings: GenerationConfig) -> Iterator[None]:
    """Generate with these settings alone.

    `transformers` fills what they leave open from the checkpoint's own generation config: beams,
    bans, biases, stop strings. Wrappers (PEFT) hold one of their own.
    """
    owners = [module for module in model.modules() if "generation_config" in vars(module)]
    before = [module.generation_config for module in owners]
    for module in owners:
        module.generation_config = copy.deepcopy(settings)  # type: ignore[assignment]
    try:
        yield
    finally:
        for module, own in zip(owners, before, strict=True):
            module.generation_config = own


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


def _sampling(temperature: float) -> dict[str, Any]:
    if temperature > 0:
        return {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    return {"do_sample": False}


def _image_ids(mllm: Mllm) -> list[int]:
    config = mllm.model.config
    found = [getattr(config, name, None) for name in ("video_token_id", "video_token_index")]
    return list(dict.fromkeys([mllm.image_token_id, *(int(i) for i in found if i is not None)]))


def _generation(mllm: Mllm, row: Sequence[int], stop: Sequence[int], *, opened: bool) -> Generation:
    end = next((index for index, token in enumerate(row) if token in stop), len(row))
    ids = tuple(row[:end])
    text = mllm.decode(ids)
    text = with_opening(text) if opened else text
    return Generation(ids=ids, text=text, finished=end < len(row))
