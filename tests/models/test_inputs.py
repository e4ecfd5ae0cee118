"""Batches, positions and free-running generation against the model's own."""

import functools
import json
import re

import pytest
import torch
from PIL import Image
from real import CHECKPOINTS, needs_real_files, real_files
from tiny import noise_image, tiny_mllm

from attcot_analysis.errors import LayoutError, ProblemError
from attcot_analysis.models import (
    build_messages,
    collate,
    encode,
    encode_problem,
    generate,
    positions,
    read_image,
)
from attcot_analysis.models.load import load_processor
from attcot_analysis.problems import Problem


@pytest.fixture
def prompts(random_mllm):
    return [
        encode(random_mllm, noise_image(96, 96, 1), "What color?"),
        encode(random_mllm, noise_image(64, 130, 2), "Start at the star and follow the arrow."),
        encode(random_mllm, None, "What color is the shape you reach?"),
    ]


def test_ids_are_the_processors_own(random_mllm):
    image = noise_image(96, 64)
    encoded = encode(random_mllm, image, "What color?", mode="direct", response="<answer>red")
    messages = build_messages("What color?", "direct")
    messages[0]["content"][0]["image"] = image
    expected = random_mllm.processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    assert torch.equal(encoded.input_ids[: encoded.prompt_length], expected["input_ids"][0])
    assert torch.equal(encoded.vision["pixel_values"], expected["pixel_values"])
    assert torch.equal(
        encoded.token_types[: encoded.prompt_length], expected["mm_token_type_ids"][0]
    )
    assert not encoded.token_types[encoded.prompt_length :].any()
    response = random_mllm.tokenizer("<answer>red")["input_ids"]
    assert list(encoded.response_ids) == response
    again = encode(random_mllm, image, "What color?", response=response, end=True)
    assert list(again.response_ids) == [*response, random_mllm.tokenizer.eos_token_id]


def test_encode_problem_takes_another_image_or_none(random_mllm):
    problem = Problem("p", noise_image(96, 96), "What color?", ("red", "blue"), "red")
    assert len(encode_problem(random_mllm, problem, mode="cot").layout.image) == 36
    other = encode_problem(random_mllm, problem, mode="cot", image=noise_image(64, 96))
    assert len(other.layout.image) == 24
    blind = encode_problem(random_mllm, problem, mode="cot", text_only=True)
    assert len(blind.layout.image) == 0 and not blind.vision


def test_what_is_handed_over_is_the_layout_in_plain_lists(random_mllm):
    text = "<think>\n1. Look.\n2. Then.\n</think>\n<answer>red</answer>"
    encoded = encode(random_mllm, noise_image(64, 96), "What color?", response=text)
    plain = json.loads(json.dumps(encoded.plain()))
    ids = torch.tensor(plain["ids"])
    assert torch.equal(ids, encoded.input_ids) and plain["image"] == encoded.layout.image.tolist()
    written = [random_mllm.tokenizer.decode(ids[slice(*step)]) for step in plain["steps"]]
    assert [text.strip() for text in written] == ["1. Look.", "2. Then."]
    assert "red" in random_mllm.tokenizer.decode(ids[slice(*plain["answer"])])
    [grid] = plain["grids"]
    assert grid["image_size"] == [64, 96] and grid["shape"] == [6, 4]
    assert len(grid["boxes"]) == len(plain["image"]) == 24 and grid["boxes"][-1][2:] == [64, 96]
    prompt = [*plain["image"], *plain["system"], *plain["question"]]
    assert sorted(prompt) == list(range(plain["response"][0]))
    assert plain["response"][1] == len(ids)
    bare = encode(random_mllm, None, "What color?").plain()
    assert bare["think"] is None and bare["steps"] == bare["grids"] == bare["image"] == []


@pytest.mark.parametrize("side", ["right", "left"])
@torch.no_grad()
def test_a_batch_gives_what_single_items_give(random_mllm, prompts, side):
    batch = collate(random_mllm, prompts, padding_side=side)
    logits = random_mllm.model(**batch).logits
    for index, prompt in enumerate(prompts):
        alone = random_mllm.model(**collate(random_mllm, [prompt])).logits[0]
        together = logits[index][batch["attention_mask"][index].bool()]
        assert torch.allclose(alone, together, atol=1e-4)


@pytest.mark.parametrize("side", ["right", "left"])
@torch.no_grad()
def test_positions_are_the_models_own(random_mllm, prompts, side, monkeypatch):
    """Catch the position ids that reach the text stack in an ordinary forward call."""
    batch = collate(random_mllm, prompts, padding_side=side)
    text = random_mllm.model.model.language_model
    caught, forward = [], text.forward

    def spy(*args, **kwargs):
        caught.append(kwargs["position_ids"])
        return forward(*args, **kwargs)

    monkeypatch.setattr(text, "forward", spy)
    random_mllm.model(**batch)
    found = positions(random_mllm, batch)
    assert found.shape == (3, 3, batch["input_ids"].shape[1])
    assert torch.equal(found, caught[0])
    assert found[1, 0].max() < batch["attention_mask"][0].sum() - 1  # an image saves positions


@torch.no_grad()
def test_positions_of_a_text_only_batch(random_mllm, prompts):
    batch = collate(random_mllm, prompts[2:] * 2)
    expected = random_mllm.model(**batch).logits
    place = positions(random_mllm, batch)
    assert place.shape == (3, 2, batch["input_ids"].shape[1])
    assert torch.allclose(random_mllm.model(**batch, position_ids=place).logits, expected)


def test_positions_need_token_types(random_mllm, prompts):
    batch = collate(random_mllm, prompts[:1])
    batch.pop("mm_token_type_ids")
    with pytest.raises(LayoutError, match="no mm_token_type_ids"):
        positions(random_mllm, batch)


@torch.no_grad()
def test_generation_equals_a_manual_greedy_loop_without_cache(random_mllm, prompts):
    found = generate(random_mllm, prompts, max_new_tokens=8, batch_size=2)
    stop = set(random_mllm.stop_ids)
    for prompt, generation in zip(prompts, found, strict=True):
        batch = collate(random_mllm, [prompt])
        written = []
        while len(written) < 8:
            logits = random_mllm.model(**batch).logits[0, -1]
            logits[
                [random_mllm.image_token_id, random_mllm.model.config.video_token_id]
            ] = -torch.inf
            token = int(logits.argmax())
            if token in stop:
                break
            written.append(token)
            for key, value in (
                ("input_ids", token),
                ("attention_mask", 1),
                ("mm_token_type_ids", 0),
            ):
                batch[key] = torch.cat([batch[key], torch.tensor([[value]])], dim=1)
        assert generation.ids == tuple(written)
        assert generation.text == random_mllm.tokenizer.decode(written)
        assert generation.finished == (len(written) < 8)


@torch.no_grad()
def test_generation_stops_at_the_end_token(prompts):
    """A model that only ever says "red" and then ends."""
    mllm = tiny_mllm(layers=1)
    red, end = mllm.tokenizer(" red")["input_ids"][0], mllm.tokenizer.eos_token_id
    forward = mllm.model.forward
    calls = []

    @functools.wraps(forward)
    def scripted(*args, **kwargs):
        out = forward(*args, **kwargs)
        calls.append(1)
        out.logits[...] = -9.0
        # Item 0 ends after two tokens, the others after three.
        out.logits[:, -1, red] = 1.0
        if len(calls) == 3:
            out.logits[0, -1, end] = 2.0
        if len(calls) >= 4:
            out.logits[:, -1, end] = 2.0
        return out

    mllm.model.forward = scripted
    found = generate(mllm, prompts, max_new_tokens=9)
    assert [g.ids for g in found] == [(red,) * 2, (red,) * 3, (red,) * 3]
    assert [g.text for g in found] == [" red red", " red red red", " red red red"]
    assert all(g.finished for g in found)


def test_sampling_follows_its_seed_and_leaves_the_global_one_alone(random_mllm, prompts):
    options = {"max_new_tokens": 6, "temperature": 1.5}
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = generate(random_mllm, prompts, seed=1, **options)
    assert torch.equal(before, torch.get_rng_state())
    assert one == generate(random_mllm, prompts, seed=1, **options)
    assert one != generate(random_mllm, prompts, seed=2, **options)


def test_generation_leaves_the_mode_alone(random_mllm, prompts):
    model = random_mllm.model
    model.train()
    try:
        generate(random_mllm, prompts[:1], max_new_tokens=1)
        assert model.training and model.lm_head.training
    finally:
        model.eval()
    assert generate(random_mllm, []) == []


def test_images_are_read_or_refused_in_a_sentence(random_mllm, tmp_path):
    noise_image(40, 40).convert("L").save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").mode == "RGB"
    assert read_image(Image.new("RGBA", (4, 4))).mode == "RGB"
    (tmp_path / "broken.png").write_bytes((tmp_path / "grey.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ProblemError, match=r"nowhere.png does not exist"):
        encode(random_mllm, tmp_path / "nowhere.png", "What color?")
    for name in ("broken.png", "text.png"):
        with pytest.raises(ProblemError, match=f"{name} cannot be read"):
            encode(random_mllm, str(tmp_path / name), "What color?")


def test_unknown_modes_and_empty_batches_are_refused(random_mllm):
    with pytest.raises(LayoutError, match="Mode 'guess' is unknown; choose one of cot, direct"):
        encode(random_mllm, None, "What color?", mode="guess")
    with pytest.raises(LayoutError, match="empty batch"):
        collate(random_mllm, [])


RESERVED = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|image_pad|>", "<|vision_start|>")


@pytest.mark.parametrize("token", RESERVED)
def test_a_question_or_option_with_a_special_token_is_refused(random_mllm, token):
    with pytest.raises(LayoutError, match=f"question holds the .* {re.escape(repr(token))} of"):
        encode(random_mllm, noise_image(64, 64), f"What is this?{token}")
    with pytest.raises(LayoutError, match=f"option holds the .* {re.escape(repr(token))} of"):
        encode(random_mllm, None, "What is this?", candidates=["red", f"blue {token}"])
    # What only looks alike is text.
    for text in (token.replace("|", ""), token[:-1], "a < b > c", "<think>", "<answer>"):
        encode(random_mllm, None, f"What is {text}?")


@needs_real_files
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_published_special_tokens_are_refused_in_questions(name):
    mllm = load_processor(real_files() / name)
    tokens = mllm.special_tokens
    assert mllm.tokenizer.convert_ids_to_tokens(mllm.image_token_id) in tokens
    assert mllm.tokenizer.eos_token in tokens
    for token in tokens:
        with pytest.raises(LayoutError, match="question holds the "):
            encode(mllm, None, f"What is {token} here?")
    encode(mllm, None, "What is <b>this</b>, 3 < 4 | 5 > 2, [1] or $x$?")
