"""Generation against a loop of whole forward passes, whatever a checkpoint's settings say."""

import pytest
import torch
from tiny import noise_image, tiny_mllm

from attcot_analysis.models import collate, encode, generate

# isort: split
# After our models package, which makes torchvision importable.
from spelt_out import respond
from transformers import GenerationConfig

N = 12

SHIPPED = {
    "beams": {"num_beams": 3},
    "beams that stop early": {"num_beams": 2, "early_stopping": True, "length_penalty": 3.0},
    "sampling": {"do_sample": True, "temperature": 3.0, "top_k": 5, "top_p": 0.5},
    "min_p": {"do_sample": True, "min_p": 0.9},
    "typical": {"do_sample": True, "typical_p": 0.1},
    "cut-offs": {"do_sample": True, "epsilon_cutoff": 0.5, "eta_cutoff": 0.5},
    "repetition penalty": {"repetition_penalty": 5.0},
    "encoder repetition penalty": {"encoder_repetition_penalty": 5.0},
    "no repeated n-grams": {"no_repeat_ngram_size": 1},
    "no n-grams of the prompt": {"encoder_no_repeat_ngram_size": 1},
    "bad words": "bad_words_ids",
    "bias": "sequence_bias",
    "suppressed": "suppress_tokens",
    "suppressed at the start": "begin_suppress_tokens",
    "forced start": {"forced_bos_token_id": 300},
    "forced end": {"forced_eos_token_id": 300},
    "length penalty": {"exponential_decay_length_penalty": (1, 9.0)},
    "least length": {"min_new_tokens": 5, "min_length": 500},
    "largest length": {"max_length": 3},
    "time": {"max_time": 0.0},
    "stop strings": {"stop_strings": ["a", "e", "1"]},
    "guidance": {"guidance_scale": 3.0},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "dola": {"dola_layers": "high"},
    "look-up": {"prompt_lookup_num_tokens": 3},
    "several": {"num_return_sequences": 2, "do_sample": True},
    "a dictionary": {"return_dict_in_generate": True, "output_scores": True},
    "cache": {"cache_implementation": "static"},
    "no cache": {"use_cache": False},
    "watermark": {"watermarking_config": {"bias": 9.0, "greenlist_ratio": 0.5}},
    "healing": {"token_healing": True},
}


@pytest.fixture(scope="module")
def mllm():
    return tiny_mllm()


@pytest.fixture(scope="module")
def prompts(mllm):
    return [
        encode(mllm, noise_image(64, 48), "What color?"),
        encode(mllm, noise_image(48, 96, 1), "Start at the star. What color do you reach?"),
    ]


@pytest.fixture(scope="module")
def expected(mllm, prompts):
    """Greedy tokens up to the first that ends a response."""
    banned = [mllm.image_token_id, mllm.model.config.video_token_id]
    found = []
    for prompt in prompts:
        with torch.no_grad():
            row = respond(mllm.model, collate(mllm, [prompt]), N, banned)[0, prompt.prompt_length :]
        ids = row.tolist()
        stop = next((at for at, one in enumerate(ids) if one in mllm.stop_ids), len(ids))
        found.append(tuple(ids[:stop]))
    assert found[0] != found[1] and all(len(ids) > 3 for ids in found)
    return found


def settings_of(changes, token):
    if isinstance(changes, dict):
        return changes
    worth = {
        "bad_words_ids": [[token]],
        "sequence_bias": [[[token], -90.0]],
        "suppress_tokens": [token],
        "begin_suppress_tokens": [token],
    }
    return {changes: worth[changes]}


@pytest.mark.parametrize("name", SHIPPED)
def test_greedy_is_the_most_probable_token_whatever_the_checkpoint_ships(
    mllm, prompts, expected, name
):
    shipped = settings_of(SHIPPED[name], expected[0][0])
    own = GenerationConfig(eos_token_id=mllm.stop_ids[0], pad_token_id=mllm.tokenizer.pad_token_id)
    for key, value in shipped.items():
        setattr(own, key, value)
    before = mllm.model.generation_config
    mllm.model.generation_config = own
    try:
        found = generate(mllm, prompts, max_new_tokens=N)
        assert mllm.model.generation_config is own
    finally:
        mllm.model.generation_config = before
    assert [one.ids for one in found] == expected


@pytest.mark.parametrize("name", ["min_p", "typical", "bias", "repetition penalty", "beams"])
def test_sampling_is_from_the_full_distribution_whatever_the_checkpoint_ships(
    mllm, prompts, expected, name
):
    plain = generate(mllm, prompts, max_new_tokens=N, temperature=1.0, seed=3)
    before = mllm.model.generation_config
    mllm.model.generation_config = GenerationConfig(eos_token_id=mllm.stop_ids[0])
    for key, value in settings_of(SHIPPED[name], plain[0].ids[0]).items():
        setattr(mllm.model.generation_config, key, value)
    try:
        found = generate(mllm, prompts, max_new_tokens=N, temperature=1.0, seed=3)
    finally:
        mllm.model.generation_config = before
    assert [one.ids for one in found] == [one.ids for one in plain]
    assert [one.ids for one in plain] != expected


def test_a_failure_leaves_the_checkpoint_s_settings(mllm, prompts):
    own = mllm.model.generation_config

    def fail(*_):
        raise RuntimeError("no")

    hook = mllm.model.register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="no"):
            generate(mllm, prompts, max_new_tokens=2)
    finally:
        hook.remove()
    assert mllm.model.generation_config is own
