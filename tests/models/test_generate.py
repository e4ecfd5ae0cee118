"""Generation against a loop of whole forward passes, whatever a checkpoint's settings say."""

import json
from dataclasses import replace

import pytest
import torch
from real import CHECKPOINTS, needs_real_files, real_files
from tiny import noise_image, tiny_mllm

from attcot_analysis.attention.prefixes import Prefixes
from attcot_analysis.errors import MeasureError, ModelError
from attcot_analysis.models import collate, encode, generate, wrap_mllm
from attcot_analysis.models.generate import RECOMMENDED, recommended_sampling

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
    "length penalty of beams": {"length_penalty": 3.0},
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
    "quantized cache": {"cache_implementation": "quantized", "cache_config": {"nbits": 4}},
    "compiled": {"cache_implementation": "static", "compile_config": {"fullgraph": True}},
    "short cache": {"cache_implementation": "static", "max_cache_len": 4, "low_memory": True},
    "chunked prompt": {"prefill_chunk_size": 3},
    "draft layers": {"assistant_early_exit": 1, "assistant_ensemble_weight": 0.9},
    "draft model": {"is_assistant": True, "assistant_confidence_threshold": 0.99},
    "several tokens at once": {"use_mtp": True},
    "diffusion drafts": {"speculation_type": "dflash"},
    "entropy": {"do_sample": True, "top_h": 0.1},
    "groups of beams": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 5.0},
    "forced words": {"num_beams": 2, "force_words_ids": [[300]], "constraints": []},
    "removed": {"remove_invalid_values": True, "renormalize_logits": True},
    "watermark": {"watermarking_config": {"bias": 9.0, "greenlist_ratio": 0.5}},
    "healing": {"token_healing": True},
}

ALLOWED = (
    "sampling",
    "min_p",
    "repetition penalty",
    "look-up",
    "largest length",
    "length penalty of beams",
    "a dictionary",
    "cache",
    "no cache",
    "quantized cache",
    "compiled",
    "short cache",
    "chunked prompt",
    "draft model",
    "several tokens at once",
    "diffusion drafts",
)
"""Of these, what a recommendation may hold beside it."""

HARMLESS = {
    "bos_token_id": "starts a prompt, which ours never lacks",
    "decoder_start_token_id": "starts the decoder of an encoder-decoder model",
    "pad_token_id": "fills up what a response has ended before, with the tokenizer's own",
    "eos_token_id": "ends a response: what a checkpoint ships here is meant to count",
    "output_attentions": "is returned, and nothing of it is read",
    "output_hidden_states": "is returned, and nothing of it is read",
    "output_logits": "is returned, and nothing of it is read",
    "max_new_tokens": "is an argument of generate()",
    "num_assistant_tokens": "is read with a draft model only",
    "num_assistant_tokens_schedule": "is read with a draft model only",
    "assistant_lookbehind": "is read with a draft model only",
    "target_lookbehind": "is read with a draft model only",
    "max_matching_ngram_size": "is read with prompt_lookup_num_tokens, which is tried",
    "disable_compile": "compiles nothing",
    "continuous_batching_config": "is read by generate_batch()",
    "_from_model_config": "says where the settings come from",
    "transformers_version": "says what they were written with",
}
"""Settings that are not tried, and why they cannot change a response."""


def test_every_setting_of_this_version_of_transformers_is_tried_or_known():
    """A new version may add one that leaks: try it in `SHIPPED`, or say here why it cannot."""
    tried = {
        name for one in SHIPPED.values() for name in ([one] if isinstance(one, str) else list(one))
    }
    there = set(vars(GenerationConfig()))
    assert not tried & set(HARMLESS)
    assert there <= tried | set(HARMLESS), there - tried - set(HARMLESS)


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


CONFIGURED = {
    "leftovers": {"num_beams": 3, "repetition_penalty": 5.0, "do_sample": True, "top_k": 1},
    "no cache": {"use_cache": False},
    "other output": {"output_hidden_states": True},
}


@pytest.mark.parametrize("name", CONFIGURED)
@pytest.mark.parametrize("stack", ["all", "text"])
def test_settings_left_in_the_configuration_change_nothing(prompts, expected, name, stack):
    other = tiny_mllm()
    config = other.model.config if stack == "all" else other.text_config
    for key, value in CONFIGURED[name].items():
        setattr(config, key, value)
    assert [one.ids for one in generate(other, prompts, max_new_tokens=N)] == expected


def test_a_tokenizer_s_own_settings_change_nothing(mllm, prompts, expected):
    processor = tiny_mllm().processor
    tokenizer = processor.tokenizer
    tokenizer.padding_side = tokenizer.truncation_side = "left"
    tokenizer.model_max_length = 8
    tokenizer.clean_up_tokenization_spaces = True
    tokenizer.backend_tokenizer.enable_truncation(5)
    tokenizer.backend_tokenizer.enable_padding(length=300)
    other = wrap_mllm(mllm.model, processor)
    again = [
        encode(other, noise_image(64, 48), "What color?"),
        encode(other, noise_image(48, 96, 1), "Start at the star. What color do you reach?"),
    ]
    for one, two in zip(again, prompts, strict=True):
        assert torch.equal(one.input_ids, two.input_ids)
    assert [one.ids for one in generate(other, again, max_new_tokens=N)] == expected


def test_code_of_a_checkpoint_does_not_generate_in_the_model_s_place(prompts, expected):
    other = tiny_mllm()
    other.model.generate = own = lambda **batch: batch["input_ids"]
    assert [one.ids for one in generate(other, prompts, max_new_tokens=N)] == expected
    assert other.model.generate is own


@torch.no_grad()
def drawn(mllm, prompt, n, seed, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, penalty=1.0):
    """Tokens drawn one by one, each from a whole forward pass, with every setting spelt out."""
    batch = collate(mllm, [prompt])
    ids, length = batch.pop("input_ids"), prompt.prompt_length
    banned = [mllm.image_token_id, mllm.model.config.video_token_id]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(n):
            more = {"mm_token_type_ids": torch.zeros_like(ids), "attention_mask": ids * 0 + 1}
            more["mm_token_type_ids"][:, :length] = batch["mm_token_type_ids"]
            vision = {k: v for k, v in batch.items() if k not in more}
            scores = mllm.model(input_ids=ids, **more, **vision, use_cache=False).logits[0, -1]
            for token in set(ids[0].tolist()) if penalty != 1 else ():
                scores[token] *= penalty if scores[token] < 0 else 1 / penalty
            scores[banned] = float("-inf")
            scores /= temperature
            if top_k:
                scores[scores < scores.sort().values[-top_k]] = float("-inf")
            order = scores.argsort(descending=True)
            before = scores.softmax(-1)[order].cumsum(-1) - scores.softmax(-1)[order]
            if top_p < 1:
                scores[order[before >= top_p]] = float("-inf")
            probs = scores.softmax(-1)
            scores[probs < min_p * probs.max()] = float("-inf")
            new = torch.multinomial(scores.softmax(-1)[None], 1)
            ids = torch.cat([ids, new], dim=1)
            if int(new) in mllm.stop_ids:
                return tuple(ids[0, length:-1].tolist())
    return tuple(ids[0, length:].tolist())


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
def test_sampling_is_drawing_from_the_full_distribution(mllm, prompts, temperature):
    for prompt in prompts:
        (found,) = generate(mllm, [prompt], max_new_tokens=N, temperature=temperature, seed=5)
        assert found.ids == drawn(mllm, prompt, N, 5, temperature=temperature)


RECOMMENDATIONS = [
    {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8},
    {"do_sample": True},
    {"do_sample": True, "temperature": 2.0, "min_p": 0.2},
    {"do_sample": True, "top_k": 1, "repetition_penalty": 1.4},
    {"repetition_penalty": 1.4},
]


def given(mllm, monkeypatch, **settings):
    config = GenerationConfig(eos_token_id=mllm.stop_ids[0], **settings)
    monkeypatch.setattr(mllm.model, "generation_config", config)


@pytest.mark.parametrize("settings", RECOMMENDATIONS, ids=str)
def test_what_is_recommended_is_drawn_as_it_says(mllm, prompts, expected, monkeypatch, settings):
    given(mllm, monkeypatch, **settings)
    spelt = {name: value for name, value in settings.items() if name != "do_sample"}
    penalty = spelt.pop("repetition_penalty", 1.0)
    spelt |= {} if settings.get("do_sample") else {"top_k": 1}
    for prompt, greedy in zip(prompts, expected, strict=True):
        (found,) = generate(mllm, [prompt], max_new_tokens=N, sampling="recommended", seed=5)
        assert found.ids == drawn(mllm, prompt, N, 5, penalty=penalty, **spelt) != greedy
    together = generate(mllm, prompts, max_new_tokens=N, sampling="recommended", seed=5)
    if not settings.get("do_sample") or settings.get("top_k") == 1:
        # Nothing is drawn, so that neither order nor padding may matter.
        assert together[1].ids == found.ids


@needs_real_files
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_recommendations_of_published_checkpoints(mllm, monkeypatch, name):
    own = json.loads((real_files() / name / "generation_config.json").read_text())
    config = GenerationConfig.from_pretrained(real_files() / name)
    monkeypatch.setattr(mllm.model, "generation_config", config)
    wanted = {key: own[key] for key in RECOMMENDED if key in own}
    if wanted:
        assert recommended_sampling(mllm) == wanted
    else:
        with pytest.raises(ModelError, match=r"recommends no sampling: .* sets none of do_sample"):
            recommended_sampling(mllm)


@needs_real_files
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_greedy_is_greedy_under_published_settings(mllm, prompts, expected, monkeypatch, name):
    config = GenerationConfig.from_pretrained(real_files() / name)
    # Their ids are of another vocabulary.
    config.eos_token_id, config.pad_token_id = mllm.stop_ids[0], None
    monkeypatch.setattr(mllm.model, "generation_config", config)
    assert [one.ids for one in generate(mllm, prompts, max_new_tokens=N)] == expected


def test_a_recommendation_that_cannot_be_used_is_refused(mllm, prompts, monkeypatch):
    given(mllm, monkeypatch, do_sample=True, num_beams=3, no_repeat_ngram_size=2, top_k=0)
    with pytest.raises(ModelError, match="also sets num_beams, no_repeat_ngram_size; take"):
        generate(mllm, prompts, sampling="recommended")
    given(mllm, monkeypatch, temperature=0.6, num_beams=1, cache_implementation="hybrid")
    assert recommended_sampling(mllm) == {"do_sample": False}
    with pytest.raises(MeasureError, match="brings a temperature of its own"):
        generate(mllm, prompts, sampling="recommended", temperature=0.5)
    with pytest.raises(MeasureError, match="sampling is 'best'; give 'recommended'"):
        generate(mllm, prompts, sampling="best")
    with pytest.raises(MeasureError, match=r"temperature is 1e-40; give 0 for greedy, or .* from"):
        generate(mllm, prompts, temperature=1e-40)
    with pytest.raises(MeasureError, match="temperature is -1; give 0"):
        generate(mllm, prompts, temperature=-1)


@pytest.mark.parametrize("name", SHIPPED)
def test_only_what_leaves_the_distribution_alone_is_not_refused(mllm, monkeypatch, name):
    own = GenerationConfig(do_sample=True, top_k=3)
    for key, value in settings_of(SHIPPED[name], 9).items():
        setattr(own, key, value)
    monkeypatch.setattr(mllm.model, "generation_config", own)
    if name in ALLOWED:
        assert recommended_sampling(mllm)
    else:
        with pytest.raises(ModelError, match="also sets"):
            recommended_sampling(mllm)


def test_a_batch_that_takes_too_long_is_cut_and_counted(mllm, prompts):
    slow = replace(mllm, max_seconds=1e-9)
    kept = replace(slow, prefixes=Prefixes(slow))
    assert kept.prefixes.shares(kept, prompts)
    for one in (slow, kept):
        with pytest.warns(
            UserWarning,
            match=f"2 responses were cut after 1e-09 .* 1 of {N} tokens.*new run folder",
        ):
            made = generate(one, prompts, max_new_tokens=N)
        assert [(len(response.ids), response.finished) for response in made] == [(1, False)] * 2
    with pytest.raises(MeasureError, match="max_seconds is nan"):
        generate(replace(mllm, max_seconds=float("nan")), prompts)


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
