"""What passes share is run once, and every number is that of a pass of its own."""

import copy
from dataclasses import replace

import pytest
import torch
from families import shared_family
from pandas.testing import assert_frame_equal
from tiny import noise_image

from attcot_analysis.attention.packing import candidate_tokens, forced_readings
from attcot_analysis.attention.prefixes import Prefixes
from attcot_analysis.measures.access import visual_access
from attcot_analysis.models import PromptCache, encode, generate
from attcot_analysis.models.cache import seen_once
from attcot_analysis.problems import Problem, Step
from attcot_analysis.runs import measure as suite
from attcot_analysis.runs.measure import measure

QUESTIONS = ("What color is it?", "Start at the star and follow the arrow. What is red?")
RESPONSES = (
    "<think>\n1. The star is in cell a1.\n2. Cell b1 holds a red circle.\n</think>\n"
    "<answer>red</answer>",
    "<think>\n1. The star is in cell c2 and its arrow points right, left or up.\n</think>\n"
    "<answer>green</answer>",
)
PICTURES = (noise_image(64, 96, 1), noise_image(96, 64, 2))


def encoded(mllm, responses=(None, None), pictures=PICTURES, **options):
    """Two items of unlike length."""
    return [
        encode(mllm, picture, question, response=response, **options)
        for picture, question, response in zip(pictures, QUESTIONS, responses, strict=True)
    ]


def sharing(mllm):
    return replace(mllm, cache=PromptCache(), prefixes=Prefixes(mllm))


@pytest.fixture
def images_seen():
    """Lengths of the pixels' tensors that models were given since they were named to it."""
    seen, hooks = [], []

    def look(module, arguments, inputs):
        if inputs.get("pixel_values") is not None:
            seen.append(len(inputs["pixel_values"]))

    def watch(mllm):
        hooks.append(mllm.model.register_forward_pre_hook(look, with_kwargs=True))
        return seen

    yield watch
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("name", ["qwen3_vl", "llava_next"])
def test_what_follows_a_kept_sequence_is_read_as_in_a_pass_of_its_own(name, images_seen):
    mllm = shared_family(name)
    shared, candidates = sharing(mllm), [candidate_tokens(mllm, ("red", "green", "blue"))] * 2
    alone, behind = [], []
    seen = images_seen(mllm)
    for model, found in ((mllm, alone), (shared, behind)):
        seen.clear()
        for responses in (RESPONSES, RESPONSES[::-1], RESPONSES):
            found += forced_readings(model, encoded(model, responses), candidates)
        for temperature, mode in ((0.0, "cot"), (1.0, "direct")):
            prompts = encoded(model, mode=mode)
            made = generate(model, prompts, max_new_tokens=10, temperature=temperature)
            found.append([one.ids for one in made])
    assert len(seen) == 1, "the pictures go through the tower once"
    for one, other in zip(alone, behind, strict=True):
        if isinstance(one, list):
            assert one == other
        else:
            torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)


def test_a_picture_or_a_token_that_differs_is_not_shared():
    shared = sharing(shared_family("qwen2_5_vl"))
    shared.prefixes.fill(shared, encoded(shared, RESPONSES))
    own = encoded(shared, RESPONSES)
    others = encoded(shared, RESPONSES, [noise_image(64, 96, 3), noise_image(96, 64, 4)])
    for one, other in zip(own, others, strict=True):
        kept, n = shared.prefixes._longest(one)
        assert kept is not None and n == len(one.input_ids)
        assert shared.prefixes._longest(other) == (None, 0)
    (changed,) = encoded(shared, RESPONSES)[:1]
    ids = changed.input_ids.clone()
    ids[changed.prompt_length + 3] += 1
    assert shared.prefixes._longest(replace(changed, input_ids=ids))[1] == changed.prompt_length + 3


def test_one_picture_under_two_questions_is_run_once(images_seen):
    mllm = shared_family("qwen2_5_vl")
    shared, candidates = sharing(mllm), [candidate_tokens(mllm, ("red", "green"))] * 2
    same = (PICTURES[0], PICTURES[0])
    alone = forced_readings(mllm, encoded(mllm, RESPONSES, same), candidates)
    seen = images_seen(mllm)
    behind = forced_readings(shared, encoded(shared, RESPONSES, same), candidates)
    torch.testing.assert_close(alone, behind, rtol=1e-5, atol=2e-5)
    patches = encoded(mllm)[0].vision["pixel_values"].shape[0]
    assert seen == [patches]


def test_a_model_that_cannot_share_runs_every_pass_on_its_own(images_seen):
    mllm = shared_family("gemma3")
    shared, candidates = sharing(mllm), [candidate_tokens(mllm, ("red", "green"))] * 2
    seen = images_seen(mllm)
    found = [forced_readings(m, encoded(m, RESPONSES), candidates) for m in (mllm, shared, shared)]
    assert len(seen) == 3 and not shared.prefixes.n_bytes
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["gemma3", "qwen3_vl", "qwen2_5_vl", "llava_next"])
def test_pictures_just_seen_are_not_looked_at_again(name):
    """The tower's own output, and of other pictures not that of the last."""
    mllm = shared_family(name)
    shared, candidates = sharing(mllm), [candidate_tokens(mllm, ("red", "green"))] * 2
    towers = [
        one
        for place, one in mllm.model.named_modules()
        if place.split(".")[-1] in ("visual", "vision_tower")
    ]
    seen = []
    hook = towers[0].register_forward_hook(lambda *_: seen.append(1))
    others = [noise_image(64, 96, 3), noise_image(96, 64, 4)]
    work = [(RESPONSES, PICTURES), (RESPONSES[::-1], PICTURES), (RESPONSES, others)]

    def read():
        seen.clear()
        found = [forced_readings(mllm, encoded(mllm, *one), candidates) for one in work]
        return found, len(seen)

    try:
        plain, times = read()
        with seen_once(shared) as forget:
            once, fewer = read()
            forget()
            assert read()[1] == fewer
        assert read()[1] == times and 3 * fewer == 2 * times
    finally:
        hook.remove()
    torch.testing.assert_close(plain, once, rtol=0, atol=0)
    assert not torch.equal(once[0][0][0], once[2][0][0])


def test_what_is_kept_for_a_while_is_let_go():
    shared = sharing(shared_family("qwen2_5_vl"))
    first, second = encoded(shared, RESPONSES)
    shared.prefixes.fill(shared, [first])
    before = shared.prefixes.n_bytes
    with shared.prefixes.while_needed():
        shared.prefixes.fill(shared, [second])
        assert shared.prefixes.n_bytes > before > 0
    assert shared.prefixes.n_bytes == before
    shared.prefixes.clear()
    assert shared.prefixes.n_bytes == 0


def test_samples_share_the_pass_over_an_edited_picture(testbed, images_seen):
    """However many samples: an edited picture goes through the tower once."""
    problems, seen = testbed.problems[:2], images_seen(testbed.mllm)
    options = {"batch_size": 2, "max_new_tokens": 60, "edits": ("twin", "control")}
    counts = []
    for samples in (2, 3):
        seen.clear()
        given = {"samples": samples, "edited_samples": samples, "temperature": 1.0, "seed": 1}
        found = measure(testbed.mllm, problems, ("dependence",), **given, **options)
        assert found["dependence"]["sample"].nunique() == samples
        counts.append(len(seen))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_responses_of_several_seeds_are_those_of_each(temperature, images_seen):
    mllm = shared_family("qwen3_vl")
    shared, seeds = sharing(mllm), [3, 1, 2]
    options = {"max_new_tokens": 12, "temperature": temperature}
    alone = [
        generate(mllm, encoded(mllm), seed=seed, batch_size=2, **options)[at].ids
        for seed in seeds
        for at in range(2)
    ]
    seen = images_seen(mllm)
    for size in (2, 5, 6):  # One, two or all of the seeds at a time.
        made = generate(shared, encoded(shared), seed=seeds, batch_size=size, **options)
        assert [one.ids for one in made] == alone
    assert len(set(alone)) == (6 if temperature else 2) and len(seen) == 1


ACCESS = {"sinks": True, "layers": [0, 1]}


@pytest.fixture
def massive_tokens():
    """A model with a dimension that is massive at some image tokens, and some of text."""
    mllm = copy.deepcopy(shared_family("qwen3_vl"))
    with torch.no_grad():
        mllm.model.get_input_embeddings().weight[::5, 5] = 50.0

    def plant(module, arguments, features):
        features = features.clone()
        features[::3, 5] = 50.0
        return features

    (merger,) = (one for name, one in mllm.model.named_modules() if name.endswith("visual.merger"))
    merger.register_forward_hook(plant)
    return mllm


@pytest.mark.parametrize("known", [True, False])
def test_access_of_a_further_response_goes_on_behind_the_prompt(massive_tokens, images_seen, known):
    """Also where a sink cannot be told without what was not noted: then it is read whole."""
    mllm, shared = massive_tokens, sharing(massive_tokens)
    problems = [
        Problem(id=f"{at}", image=picture, question=question, candidates=("red", "green"),
                answer="red", steps=(Step("The star.", ((0, 0, 32, 32),)),))
        for at, (picture, question) in enumerate(zip(PICTURES, QUESTIONS, strict=True))
    ]  # fmt: skip
    seen = images_seen(mllm)
    found = [visual_access(shared, problems, RESPONSES, **ACCESS)]
    for one in shared.prefixes._kept if not known else ():
        for layer, (dims, values) in one.massive.items():
            one.massive[layer] = dims[:0], values[:, :0]
    found.append(visual_access(shared, problems, RESPONSES[::-1], **ACCESS))
    assert len(seen) == (1 if known else 2)
    plain = [visual_access(mllm, problems, one, **ACCESS) for one in (RESPONSES, RESPONSES[::-1])]
    for one, other in zip(plain, found, strict=True):
        assert_frame_equal(one.table, other.table, rtol=1e-5, atol=1e-6)
        assert one.table["sink_share"].max() > 0.01


WHAT = ("answers", "direct", "commitment", "access", "dependence")
SETTINGS = {"batch_size": 2, "max_new_tokens": 40, "edits": ("twin", "blank")}


def test_a_run_that_shares_gives_the_numbers_of_one_that_does_not(testbed, monkeypatch):
    problems = testbed.problems[:3]
    found = measure(testbed.mllm, problems, WHAT, **SETTINGS)
    # What is measured alone, as after a kill, has the very numbers it has beside others.
    alone = measure(testbed.mllm, problems, ("dependence",), **SETTINGS)["dependence"]
    assert_frame_equal(found["dependence"], alone, check_exact=True)
    monkeypatch.setattr(suite, "sharing", lambda mllm: (mllm, lambda: None))
    apart = measure(testbed.mllm, problems, WHAT, **SETTINGS)
    assert list(found) == list(apart)
    for name, table in apart.items():
        assert_frame_equal(found[name], table, rtol=1e-4, atol=1e-5, obj=name)
    assert found["answers_cot"]["ids"].tolist() == apart["answers_cot"]["ids"].tolist()
    assert len(found["commitment"]) and len(found["access"]) and len(found["dependence"])
