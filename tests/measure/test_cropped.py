"""What a processor's crop does not show of the evidence is missing from every number, not 0."""

import copy

import numpy as np
import pytest
import torch
from families import shared_family
from real import needs_real_files, real_files
from tiny import noise_image
from transformers import AutoConfig, AutoProcessor

from attcot_analysis.measures.access import answer_access, visual_access
from attcot_analysis.measures.dependence import dependence
from attcot_analysis.measures.divergence import token_divergence
from attcot_analysis.measures.maps import response_maps
from attcot_analysis.measures.relevance import compare_maps
from attcot_analysis.models import Generation, encode_problem
from attcot_analysis.models.families import ProcessedPrompt, family_of
from attcot_analysis.problems import Edit, Problem, Step, render_response
from attcot_analysis.runs.generations import Generations
from attcot_analysis.runs.measure import measure_run
from attcot_analysis.train.data import RationaleDataset

UNSEEN, HALF, SEEN = (0, 0, 30, 64), (16, 0, 48, 32), (48, 16, 80, 48)
"""Of a picture of 128 x 64 the model sees the middle 64 x 64, from column 32 to column 96."""


@pytest.fixture(scope="module")
def even():
    """A model that crops, and attends evenly."""
    mllm = copy.deepcopy(shared_family("llava"))
    for layer in mllm.model.model.language_model.layers:
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)
    return mllm


def problem(*boxes, **more):
    steps = tuple(Step(f"Look there, {at}.", (box,)) for at, box in enumerate(boxes))
    image = noise_image(128, 64)
    return Problem("a", image, "What color?", ("red", "blue"), "red", steps, **more)


def responses(one):
    return [render_response(one.steps, one.answer)]


def test_access_to_what_is_not_shown_is_missing(even):
    item = problem(UNSEEN, HALF, SEEN, UNSEEN)
    steps = visual_access(even, [item], responses(item)).table
    answer = answer_access(even, [item], responses(item)).table
    found = steps.groupby("step")[["mass", "evidence_mass", "evidence_share", "evidence_area"]]
    means = found.mean()
    assert (means["mass"] > 0).all()
    for name in ("evidence_mass", "evidence_share", "evidence_area"):
        assert means[name].isna().tolist() == [True, False, False, True]
    # Of 64 x 64 pixels in sight, 16 x 32 and 32 x 32 are of the boxes.
    np.testing.assert_allclose(means["evidence_share"][[2, 3]], [1 / 8, 1 / 4], rtol=1e-5)
    assert answer["evidence_mass"].gt(0).all() and answer["last_evidence_mass"].isna().all()


def test_an_even_spread_has_no_focus_where_the_picture_is_cropped(even):
    item = problem(UNSEEN, HALF, SEEN)
    (focus,) = visual_access(even, [item], responses(item)).focus()["focus"]
    assert focus == pytest.approx(0, abs=1e-5)
    hidden = problem(UNSEEN)
    assert visual_access(even, [hidden], responses(hidden)).focus().empty


def test_maps_say_nothing_about_what_is_not_shown(even):
    item = problem(UNSEEN, SEEN)
    table = compare_maps(item, [response_maps(even, item, *responses(item))]).set_index("step")
    assert table.loc[1, ["evidence_share", "peak_on_evidence"]].isna().all()
    assert table.loc[2, "evidence_share"] == pytest.approx(1 / 4, rel=1e-4)


@pytest.mark.parametrize("kind", ["twin", "occlude"])
def test_an_edit_that_the_model_cannot_see_is_no_finding(kind):
    mllm = shared_family("llava")
    items = []
    for name, box in (("out", UNSEEN), ("in", SEEN)):
        image = noise_image(128, 64)
        changed = image.copy()
        changed.paste((9, 9, 9), box)
        twin = Edit("twin", changed, "blue", (), (box,))
        steps = (Step("Look there.", (box,)),)
        items.append(Problem(name, image, "What color?", ("red", "blue"), "red", steps, twin=twin))
    said = [text for one in items for text in responses(one)]
    result = dependence(mllm, items, said, edits=(kind,), rationales=("fixed",))
    assert set(result.table["item"]) == {"in"} and result.skipped == {f"no edit {kind}": ("out",)}
    apart = token_divergence(mllm, items, said, edit=kind)
    assert set(apart.table["item"]) == {"in"} and apart.skipped == {f"no edit {kind}": ("out",)}
    assert apart.table["kl"].max() > 0


def test_hidden_edits_and_open_questions_of_another_s_rationales_are_no_gaps(even, tmp_path):
    def item(name, box, candidates=("red", "blue")):
        twin = Edit("twin", noise_image(128, 64, seed=1), "blue", (), (box,))
        image = noise_image(128, 64)
        return Problem(name, image, "What color?", candidates, "red", (), twin)

    items = [item("hidden", UNSEEN), item("shown", SEEN), item("open", SEEN, ())]
    text = render_response(["I look."], "red")
    ids = tuple(even.tokenizer(text, add_special_tokens=False)["input_ids"])
    given = Generations({one.id: Generation(ids, text, True) for one in items}, foreign=True)
    run = measure_run(tmp_path / "run", even, items, ("dependence",), generations=given)
    edits = run.read_table("dependence").groupby("edit")["item"].agg(set)
    assert edits["twin"] == {"shown"} and edits["blank"] == {"hidden", "shown"}


def test_no_training_towards_what_is_not_shown():
    item = problem(UNSEEN, SEEN)
    first, second = RationaleDataset(shared_family("llava"), [item])[0].evidence
    assert first is None and second.sum() > 0


@needs_real_files
def test_llava_15_sees_the_middle_of_a_wide_photograph():
    folder = real_files() / "llava15"
    processor = AutoProcessor.from_pretrained(folder)
    config = AutoConfig.from_pretrained(folder)
    for size, unseen, half, seen in (
        ((640, 480), (0, 0, 79, 480), (60, 0, 100, 40), (80, 0, 100, 20)),
        ((500, 1000), (100, 0, 400, 249), (0, 200, 50, 300), (0, 250, 50, 260)),
    ):
        prompt = "USER: <image>\nWhat color? ASSISTANT:"
        made = processor(text=[prompt], images=[[noise_image(*size)]], return_tensors="pt")
        given = ProcessedPrompt(
            processor,
            config,
            made["input_ids"][0].numpy(),
            config.image_token_id,
            {"pixel_values": made["pixel_values"]},
            [size],
        )
        (grid,) = family_of(config).grids(given)
        assert len(grid) == 576 and not grid.sees([unseen])
        token = (min(size) / 24) ** 2
        for box, share in ((seen, 1.0), (half, 0.5)):
            pixels = (box[2] - box[0]) * (box[3] - box[1]) * share
            assert grid.coverage([box]).sum() * token == pytest.approx(pixels, rel=0.05)


def test_encoding_a_problem_that_is_cropped_keeps_its_size():
    item = problem(SEEN)
    (grid,) = encode_problem(shared_family("llava"), item).layout.grids
    assert grid.image_size == item.size and grid.boxes[:, 0].min() == pytest.approx(32)
