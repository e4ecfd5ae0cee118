"""Problems with several pictures: masses, edits and cuts per picture; what refuses them by name."""

import copy
import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from families import shared_family
from real import needs_real_files, real_mllm
from tiny import noise_image, tiny_mllm

from attcot_analysis.attention.prefixes import Prefixes
from attcot_analysis.errors import (
    AttCoTError,
    LayoutError,
    MeasureError,
    ProblemError,
    TrainingError,
)
from attcot_analysis.measures import patches
from attcot_analysis.measures._items import paired
from attcot_analysis.measures.access import VisualAccess, answer_access, visual_access
from attcot_analysis.measures.answers import answer_problems
from attcot_analysis.measures.attributions import attribution_maps
from attcot_analysis.measures.behaviours import behaviour
from attcot_analysis.measures.causal import causal_access
from attcot_analysis.measures.commitment import commitment
from attcot_analysis.measures.dependence import dependence
from attcot_analysis.measures.divergence import token_divergence
from attcot_analysis.measures.maps import response_maps
from attcot_analysis.measures.patches import patching
from attcot_analysis.measures.relevance import relevance
from attcot_analysis.measures.states import _states as measured_states
from attcot_analysis.measures.states import hidden_commitment
from attcot_analysis.models import PromptCache, collate, encode, encode_problem, generate
from attcot_analysis.problems import Edit, Problem, Step, render_response
from attcot_analysis.problems.coverage import data_coverage
from attcot_analysis.problems.edits import EditOptions, edited_images
from attcot_analysis.problems.fills import occluded
from attcot_analysis.problems.pictures import beside
from attcot_analysis.show.explorer.build import explorer_record
from attcot_analysis.show.explorer.page import explorer_page
from attcot_analysis.show.report.maps import model_maps
from attcot_analysis.train import RationaleDataset
from attcot_analysis.train.trainer import CotCollator, prompt_completion_rows

STEPS = (
    Step("The star of the second picture is red.", ((0, 0, 32, 32),), (2,)),
    Step("Both show a circle.", ((0, 0, 16, 16), (32, 32, 64, 64)), (1, 2)),
    Step("So it is red."),
)


def several(name="a", sizes=((96, 96), (64, 96), (64, 64)), **changes):
    pictures = [noise_image(*size, seed) for seed, size in enumerate(sizes, start=1)]
    fields = {
        "id": name,
        "image": pictures[0],
        "more_images": pictures[1:],
        "question": "What colour is the star of the second picture?",
        "candidates": ("red", "blue"),
        "answer": "red",
        "steps": STEPS,
    }
    return Problem(**{**fields, **changes})


def response(item):
    return render_response(item.steps, item.answer)


def test_pictures_are_laid_out_in_order_each_with_its_own_tokens(random_mllm):
    item = several()
    layout = encode_problem(random_mllm, item, response=response(item)).layout
    assert [len(own) for own in layout.pictures] == [36, 24, 16]
    assert np.array_equal(np.concatenate(layout.pictures), layout.image)
    assert [grid.image_size for grid in layout.grids] == list(item.sizes)


@torch.no_grad()
@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl", "smolvlm"])
def test_masses_per_picture_equal_eager_attention_and_sum_to_the_whole(name):
    mllm, item = shared_family(name), several()
    access = visual_access(mllm, [item], [response(item)])
    table = access.table.set_index(["step", "layer", "head"])
    parts = sum(table[f"picture_{number}_mass"] for number in item.numbers)
    np.testing.assert_allclose(parts, table["mass"], rtol=1e-6)
    encoded = encode_problem(mllm, item, response=response(item))
    eager = copy.deepcopy(mllm.model)
    eager.set_attn_implementation({"text_config": "eager"})
    weights = eager(**collate(mllm, [encoded]), output_attentions=True).attentions
    for number, tokens in enumerate(encoded.layout.pictures, start=1):
        inside = encoded.layout.grids[number - 1].coverage(item.step_boxes(2, number))
        for (step, layer, head), row in table.iterrows():
            span = encoded.layout.steps[step - 1]
            own = weights[layer][0, head, span.start - 1 : span.stop - 1][:, tokens].numpy()
            assert row[f"picture_{number}_mass"] == pytest.approx(own.sum(1).mean(), abs=1e-6)
            if step == 2 and inside.any():
                expected = (own @ inside).mean()
                assert row[f"picture_{number}_evidence_mass"] == pytest.approx(expected, abs=1e-6)
    long = access.pictures()
    assert long.groupby("step")["share"].sum().to_numpy() == pytest.approx(1)
    assert long.groupby("step")["even"].sum().to_numpy() == pytest.approx(1)
    assert long[long["step"] == 1]["named"].tolist() == [False, True, False]
    assert long[long["step"] == 3]["named"].isna().all()


def test_uniform_attention_gives_every_picture_its_share_of_tokens():
    mllm, item = tiny_mllm(), several()
    for layer in mllm.model.model.language_model.layers:
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)
        torch.nn.init.zeros_(layer.self_attn.q_proj.bias)
    plain = replace(item, id="b", more_images=(), steps=(STEPS[2],))
    access = visual_access(mllm, [item, plain], [response(item), response(plain)])
    found = access.pictures()
    assert set(found["item"]) == {"a"}
    np.testing.assert_allclose(found["share"], found["even"], rtol=1e-5)
    own = found[(found["step"] == 1) & (found["picture"] == 2)].iloc[0]
    assert own["even"] == pytest.approx(24 / 76)
    assert own["evidence_share"] == pytest.approx(4 / 24)
    assert found[found["picture"] == 3]["evidence_mass"].isna().all()
    answers = answer_access(mllm, [item], [response(item)]).table
    np.testing.assert_allclose(answers["picture_3_share"], 16 / 76, rtol=1e-5)
    np.testing.assert_allclose(answers["last_evidence_share"], (1 + 4) / 76, rtol=1e-5)
    # One picture: no columns of pictures, and the reading says so.
    alone = visual_access(mllm, [plain], [response(plain)])
    assert not [name for name in alone.table if name.startswith("picture")]
    with pytest.raises(MeasureError, match="has several pictures"):
        alone.pictures()


def planted(masses):
    """A table whose steps look at three pictures of 36, 24 and 16 tokens as said."""
    rows = []
    for step, own in enumerate(masses, start=1):
        row = {"item": "a", "step": step, "n_steps": 3, "layer": 0, "head": 0, "mass": sum(own)}
        for number, (mass, tokens) in enumerate(zip(own, (36, 24, 16), strict=True), start=1):
            row |= {f"picture_{number}_mass": mass, f"picture_{number}_area": tokens / 76}
            row[f"picture_{number}_evidence_mass"] = np.nan
        rows.append(row | dict.fromkeys(("share", "density", "evidence_mass", "evidence_share"), 0))
    return VisualAccess(pd.DataFrame(rows), [several(steps=(STEPS[0], STEPS[0], STEPS[1]))])


def test_attention_accuracy_of_planted_looks():
    # Both steps that name one picture, the second, look at it most; the third names two.
    found = planted([(0.1, 0.5, 0.1), (0.1, 0.2, 0.1), (0.9, 0.0, 0.0)]).attention_accuracy()
    assert found.iloc[0].tolist() == ["a", 2, 1.0, 1.0, pytest.approx(1 / 3)]
    # One looks elsewhere; the other's largest mass lies on the largest picture, not per token.
    found = planted([(0.1, 0.0, 0.5), (0.25, 0.2, 0.1), (0.0, 0.9, 0.0)]).attention_accuracy()
    assert found.iloc[0].tolist() == ["a", 2, 0.0, 0.5, pytest.approx(1 / 3)]


def test_a_cut_of_every_picture_is_a_cut_of_the_image(random_mllm):
    item = several()
    options = {"kinds": ("knockout",), "steps": [0]}
    whole = causal_access(random_mllm, [item], [response(item)], **options).table
    one = causal_access(random_mllm, [item], [response(item)], picture=2, **options).table
    assert one["keys"].tolist() == ["picture 2"]
    assert one["log_p_before"].iloc[0] == whole["log_p_before"].iloc[0]
    assert one["log_p_after"].iloc[0] != whole["log_p_after"].iloc[0]
    # Alone in the prompt, the cut of the first picture is that of the image.
    alone = item.alone(2)
    first = causal_access(random_mllm, [alone], [response(alone)], picture=1, **options).table
    image = causal_access(random_mllm, [alone], [response(alone)], **options).table
    assert first["log_p_after"].iloc[0] == image["log_p_after"].iloc[0]
    for wrong in ({"picture": 4}, {"picture": 1, "keys": "question"}):
        with pytest.raises(MeasureError, match=r"number them from 1|keys='image'"):
            causal_access(random_mllm, [item], [response(item)], **options, **wrong)
    with pytest.raises(MeasureError, match="takes all pictures away"):
        causal_access(random_mllm, [item], [response(item)], picture=1)


def test_an_edit_replaces_its_picture_and_no_other(random_mllm):
    item = several()
    twin = Edit("twin", noise_image(64, 96, 9), "blue", (), ((0, 0, 32, 32),), picture=2)
    item = replace(item, twin=twin)
    (own,) = edited_images([item], "twin")
    (blank,) = edited_images([item], "blank", options=EditOptions(picture=3))
    (hidden,) = edited_images([item], "occlude", options=EditOptions(picture=2))
    assert [one.picture for one in (own, blank, hidden)] == [2, 3, 2]
    assert hidden.boxes == ((0, 0, 32, 32), (32, 32, 64, 64))
    for one in (own, blank, hidden):
        shown = one.shown(item)
        same = [a.tobytes() == b.tobytes() for a, b in zip(shown, item.images, strict=True)]
        assert same == [number != one.picture for number in item.numbers]
    with pytest.raises(MeasureError, match="which one the edit 'blank'"):
        edited_images([item], "blank")
    found = dependence(
        random_mllm, [item], [response(item)], edits=("twin",), max_new_tokens=4, empty="skip"
    ).table
    assert found["rationale"].tolist() == ["fixed", "regenerated"]
    # Slow twin: the answer forced on the three pictures, one of them exchanged.
    pictures = [item.image, twin.image, item.more_images[1]]
    swapped = replace(item, id="c", more_images=pictures[1:], twin=None)
    read = commitment(random_mllm, [swapped], [response(item)], controls=("rationale",)).table
    last = read[read["step"] == 3].set_index("candidate")["p"]
    after = np.log(last[found["answer_before"].iloc[0]])
    assert found["log_p_after"].iloc[0] == pytest.approx(after, abs=1e-4)


def test_an_edit_s_name_says_which_picture_it_is_of():
    item, short = several(), several("b", sizes=((96, 96), (64, 96)))
    (second,) = edited_images([item], "blank", options=EditOptions(picture=2))
    for one in edited_images([item, short], "blank@2"):
        assert (one.kind, one.picture) == ("blank@2", 2)
        assert one.image.tobytes() == second.image.tobytes()
    assert [one.at for one in edited_images([item, short], "blank@3")] == [0]
    alone = item.alone(1)
    assert edited_images([alone], "blank@1")[0].shown(alone).size == (96, 96)
    assert not edited_images([alone], "blank@2", only=[0])
    for wrong in ("blank@0", "blank@", "blank@x", "twin@2", "blnak@2"):
        with pytest.raises(MeasureError, match="There is no edit"):
            edited_images([item], wrong)


def test_labels_stand_before_their_pictures_or_are_refused(random_mllm):
    item = several(picture_labels=("Image-1:", "Image-2:", "Image-3:"))
    plain = encode_problem(random_mllm, several())
    encoded = encode_problem(random_mllm, item, response=response(item))
    for label, own in zip(item.picture_labels, encoded.layout.pictures, strict=True):
        before = random_mllm.decode(encoded.input_ids[: own[0]].tolist())
        assert before.count(label) == 1 and before.rstrip().endswith(f"{label} <|vision_start|>")
    for one, other in zip(plain.layout.pictures, encoded.layout.pictures, strict=True):
        assert len(one) == len(other)
    text = encode_problem(random_mllm, item, text_only=True)
    assert torch.equal(
        text.input_ids, encode_problem(random_mllm, several(), text_only=True).input_ids
    )
    (row,) = prompt_completion_rows(random_mllm, [item])
    assert row["prompt"].count("Image-2: <|vision_start|>") == 1
    # A template that sorts pictures before texts, as LLaVA's published ones do.
    sorting = copy.copy(random_mllm.processor)
    sorting.chat_template = (
        "{% for message in messages %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}"
        "{% endfor %}{% for part in message['content'] %}{% if part['type'] == 'text' %}"
        "{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    with pytest.raises(LayoutError, match="writes all pictures before all texts"):
        encode_problem(replace(random_mllm, processor=sorting), item)
    assert encode_problem(replace(random_mllm, processor=sorting), several()).layout.pictures
    with pytest.raises(LayoutError, match="label holds the image placeholder"):
        encode(random_mllm, item.images, "?", labels=["a", "b", "<|image_pad|>"])
    with pytest.raises(LayoutError, match="1 labels were given for 3 pictures"):
        encode(random_mllm, item.images, "?", labels=["a"])


def test_generation_sees_all_pictures(random_mllm):
    item = several()
    direct = encode(random_mllm, item.images, item.question, candidates=item.candidates)
    (slow,) = generate(random_mllm, [direct], max_new_tokens=8)
    row = answer_problems(random_mllm, [item], max_new_tokens=8).iloc[0]
    assert tuple(row["ids"]) == slow.ids
    with pytest.raises(LayoutError, match="has 3 pictures, and 1 were given"):
        answer_problems(random_mllm, [item], images=[item.image])


def test_what_passes_share_is_told_apart_by_every_picture(random_mllm):
    """Two items that differ in their second picture alone, measured together with kept keys."""
    items = [several(), several("b", more_images=(noise_image(64, 96, 8), noise_image(64, 64, 3)))]
    said, shared = [response(items[0])] * 2, replace(random_mllm, cache=PromptCache())
    shared = replace(shared, prefixes=Prefixes(shared))
    for mllm in (random_mllm, shared):
        access = visual_access(mllm, items, said).table.set_index("item")
        forced = commitment(mllm, items, said, controls=("rationale",)).table
        edited = dependence(
            mllm,
            items,
            said,
            edits=("blank",),
            options=EditOptions(picture=2),
            rationales=("fixed",),
        ).table.set_index("item")
        found = access["picture_2_mass"], forced["p"], edited["delta_log_p"]
        if mllm is random_mllm:
            alone = found
            assert abs(access.loc["a", "mass"].iloc[0] - access.loc["b", "mass"].iloc[0]) > 1e-6
            assert edited["delta_log_p"].nunique() == 2
    for one, other in zip(alone, found, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize(
    "measure",
    [
        lambda mllm, items, responses: attribution_maps(
            mllm, items[0], responses[0], method="integrated_gradients"
        ),
        lambda *given: behaviour(*given, option="red"),
        lambda mllm, items, responses: explorer_record(
            mllm, items[0], responses[0], image=items[0].image
        ),
    ],
)
def test_what_knows_one_picture_refuses_several_by_name(random_mllm, measure):
    item = several()
    with pytest.raises(AttCoTError, match=r"3 (pictures|images)"):
        measure(random_mllm, [item], [response(item)])


@torch.no_grad()
def log_p_of_rationale(mllm, item, pictures):
    """Oracle: log p of every token of the steps, in one plain pass."""
    encoded = encode_problem(mllm, item, response=response(item), image=pictures)
    logits = mllm.model(**collate(mllm, [encoded])).logits[0].log_softmax(-1)
    places = [at for step in encoded.layout.steps for at in range(*step)]
    return np.array([float(logits[at - 1, encoded.input_ids[at]]) for at in places])


def test_divergence_under_an_edit_of_one_picture(random_mllm):
    item = several()
    found = token_divergence(random_mllm, [item], [response(item)], edit="blank@2").table
    (edited,) = edited_images([item], "blank@2")
    for column, pictures in (("before", item.images), ("after", edited.shown(item))):
        expected = log_p_of_rationale(random_mllm, item, pictures)
        np.testing.assert_allclose(found[f"log_p_{column}"], expected, atol=2e-5)
    assert found["kl"].max() > 1e-4


def test_occlusion_paints_over_a_region_of_each_picture(random_mllm):
    item = several(evidence=((0, 0, 32, 32),), evidence_pictures=(3,))
    options = {"method": "occlusion", "regions": (1, 2), "targets": "steps"}
    found = attribution_maps(random_mllm, item, response(item), **options)
    layout = encode_problem(random_mllm, item, response=response(item)).layout
    assert found.weights.shape[-1] == len(layout.image) == len(found.grid)
    spans = np.cumsum([0, *(step.size for step in layout.steps)])
    before = log_p_of_rationale(random_mllm, item, item.images)
    starts = np.cumsum([0, *map(len, layout.grids)])
    for number, grid in enumerate(layout.grids):
        width, height = item.sizes[number]
        for left in (0, width // 2):
            box = (left, 0, left + width // 2, height)
            shown = list(item.images)
            shown[number] = occluded(shown[number], [box], "mean")
            lost = before - log_p_of_rationale(random_mllm, item, shown)
            on = starts[number] + np.flatnonzero(grid.coverage([box]) > 0)
            for step, (start, stop) in enumerate(itertools.pairwise(spans)):
                total = found.weights[0, 0, step, on].sum()
                assert total == pytest.approx(lost[start:stop].sum(), abs=1e-4)
    assert np.abs(found.weights).max() > 1e-4


def test_relevance_holds_maps_against_the_boxes_in_each_picture(random_mllm):
    item = several()
    sources = ("attention", "rollout", "gradient_relevance")
    table = relevance(random_mllm, [item], [response(item)], sources=sources).table
    grids = encode_problem(random_mllm, item).layout.grids
    for step in (1, 2):
        own = [grid.coverage(item.step_boxes(step, n)) for n, grid in enumerate(grids, 1)]
        area = table.loc[table["step"] == step, "evidence_area"]
        np.testing.assert_allclose(area, np.concatenate(own).mean())
    # Boxes of the second picture taken for the first one's would lie elsewhere.
    (maps,) = [response_maps(random_mllm, item, response(item))]
    values = maps.step_weights()[0]
    cover = np.concatenate([g.coverage(item.step_boxes(1, n)) for n, g in enumerate(grids, 1)])
    read = table.set_index(["source", "step"])["evidence_share"]
    assert read["attention", 1] == pytest.approx(float(values @ cover / values.sum()))


def test_patches_of_evidence_lie_in_the_edited_picture(random_mllm, monkeypatch):
    other = several().images[1]
    other.paste(noise_image(32, 32, 9))
    item = several(twin=Edit("twin", other, "blue", (), ((0, 0, 32, 32),), picture=2))
    made = []
    build = patches.PatchedBatch._masks

    def masks(self, edits):
        made.append(build(self, edits))
        return made[-1]

    monkeypatch.setattr(patches.PatchedBatch, "_masks", masks)
    last = random_mllm.n_layers - 1
    found = patching(
        random_mllm,
        [item],
        [response(item)],
        sites=("residual",),
        groups=("evidence", "image", "all"),
        windows=[(last, last)],
        control=None,
    ).table
    layout = encode_problem(random_mllm, item).layout
    first = layout.image[len(layout.grids[0])]
    places = np.flatnonzero(made[0]["evidence"][0])
    assert places.tolist() == [first + row * 4 + col for row in range(2) for col in range(2)]
    # What the last layer puts out at every place is all that there is to read.
    gap = found["log_odds_source"] - found["log_odds_before"]
    whole = found["group"] == "all"
    np.testing.assert_allclose(found["recovered"][whole], gap[whole], atol=2e-5)
    assert gap.abs().max() > 1e-4 and (found["recovered"][~whole].abs() < 1e-6).all()


def test_states_are_those_of_all_pictures(random_mllm):
    items = [several(f"{seed}", answer=("red", "blue")[seed % 2]) for seed in range(4)]
    said = [response(item) for item in items]
    found = hidden_commitment(random_mllm, items, said, controls=(), folds=2, forced=False)
    assert set(found.table["item"]) == {item.id for item in items}
    states = []
    for one in (
        items[0],
        replace(items[0], more_images=[noise_image(64, 96, 7), items[0].images[2]]),
    ):
        pairs = paired(random_mllm, [one], said[:1], several=True)
        read, _ = measured_states(pairs, [0], lambda _: (0, 1), [0, 2], False, 1, False)
        states.append(read[0])
        encoded = encode_problem(random_mllm, one, response=said[0])
        with torch.no_grad():
            output = random_mllm.model(**collate(random_mllm, [encoded]), output_hidden_states=True)
        rows = [cut.stop - 1 for cut in encoded.layout.cuts[:2]]
        np.testing.assert_allclose(read[0][:, 0], output.hidden_states[1][0, rows], atol=1e-5)
    assert np.abs(states[0] - states[1]).max() > 1e-4


def test_maps_of_several_pictures_lie_side_by_side(random_mllm):
    item = several(evidence=((0, 0, 32, 32),), evidence_pictures=(3,))
    sheet = item.sheet
    assert sheet.size == (96 + 12 + 64 + 12 + 64, 96) and sheet.n_images == 1
    for left, one in zip((0, 108, 184), item.images, strict=True):
        assert np.array_equal(
            np.asarray(sheet.image.crop((left, 0, left + one.width, one.height))), one
        )
    assert sheet.image.getpixel((100, 5)) == sheet.image.getpixel((190, 90)) == (255, 255, 255)
    assert sheet.steps[0].boxes == ((108, 0, 140, 32),) and sheet.evidence == ((184, 0, 216, 32),)
    assert item.alone(1).sheet.size == (96, 96)

    found = response_maps(random_mllm, item, response(item))
    layout = encode_problem(random_mllm, item, response=response(item)).layout
    assert found.grid.image_size == sheet.size
    # Each picture's part of a map is its mass, which eager attention confirms above.
    access = visual_access(random_mllm, [item], [response(item)]).table
    mean = access.groupby("step")[[f"picture_{n}_mass" for n in item.numbers]].mean()
    columns = np.split(found.grid.to_canvas(found.step_weights(), 24, 248 // 4), [25, 44], axis=-1)
    for number, part in enumerate(columns, start=1):
        np.testing.assert_allclose(part.sum((1, 2)), mean[f"picture_{number}_mass"], rtol=1e-5)
    # What evidence covers is the same on the sheet and in its picture.
    own = [grid.coverage(item.step_boxes(2, n)) for n, grid in enumerate(layout.grids, 1)]
    np.testing.assert_allclose(found.grid.coverage(sheet.step_boxes(2)), np.concatenate(own))
    assert found.boxes[-1] == () and sheet.step_boxes(1) in found.boxes

    record = explorer_record(random_mllm, item, response(item), sources=("attention", "sink_free"))
    assert record.picture.size == record.grid.image_size == sheet.size
    assert "data:image" in explorer_page(record)
    drawn = model_maps({"base": random_mllm, "sft": random_mllm}, item)
    assert drawn.maps[0].shape[1:] == found.grid.resolution
    assert drawn.boxes[0] == sheet.steps[0].boxes and drawn.figure()


def test_a_sheet_has_four_pictures_in_a_row():
    item = several(sizes=[(20, 10), (30, 40)] * 3, steps=())
    assert item.sheet.size == (20 + 12 + 30 + 12 + 20 + 12 + 30, 40 + 12 + 40)
    assert beside(item.sizes)[0][3:] == [(106, 0), (0, 52), (32, 52)]


def test_training_reads_every_picture_and_the_boxes_in_it(random_mllm):
    item = several()
    encoded = encode_problem(random_mllm, item, response=response(item))
    example = RationaleDataset(random_mllm, [item])[0]
    assert example.encoded.layout.image.tolist() == encoded.layout.image.tolist()
    expected = [
        grid.coverage(item.step_boxes(2, n)) for n, grid in enumerate(encoded.layout.grids, 1)
    ]
    np.testing.assert_allclose(example.evidence[1], np.concatenate(expected), rtol=1e-6)
    assert example.evidence[0].nonzero().flatten().min() >= 36 and example.evidence[2] is None
    (row,) = prompt_completion_rows(random_mllm, [item])
    assert len(row["images"]) == row["prompt"].count("<|image_pad|>") == 3
    with pytest.raises(TrainingError, match="exactly one image"):
        CotCollator(random_mllm)([row])


def test_an_item_with_one_of_its_pictures():
    item = several(evidence=((0, 0, 8, 8),), evidence_pictures=(3,))
    alone = item.alone(2)
    assert (alone.size, alone.n_images) == ((64, 96), 1)
    assert [step.boxes for step in alone.steps] == [((0, 0, 32, 32),), ((32, 32, 64, 64),), ()]
    assert item.step_boxes(3, 3) == ((0, 0, 8, 8),) and item.step_boxes(3) == ()
    assert item.boxes_in(1) == ((0, 0, 16, 16),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": (Step("a", ((0, 0, 8, 8),), (4,)),)}, "names picture 4"),
        ({"steps": (Step("a", ((0, 0, 90, 90),), (3,)),)}, "does not lie in its 64x64 image"),
        ({"more_images": noise_image(8, 8)}, "expected a list"),
        ({"more_images": ["x.png"]}, "image 2 is 'x.png'"),
        ({"twin": Edit("twin", noise_image(96, 96), "blue", (), (), 5)}, "replaces picture 5 of 3"),
    ],
)
def test_what_contradicts_the_pictures_is_refused(changes, message):
    with pytest.raises(ProblemError, match=message):
        several(**changes)


def test_numbers_of_pictures_fit_the_boxes():
    for numbers in ((0,), (True,), "1", (1, 2, 3), (10**5000,)):
        with pytest.raises(ProblemError, match="A step's pictures"):
            Step("a", ((0, 0, 8, 8), (0, 0, 9, 9)), numbers)


@needs_real_files
@pytest.mark.long
@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl3", "gemma3", "smolvlm2"])
def test_published_processors_lay_out_several_pictures(name):
    mllm = real_mllm(name)
    item = several(sizes=((640, 480), (300, 500), (224, 224)))
    layout = encode_problem(mllm, item, response=response(item)).layout
    for size, own, grid in zip(item.sizes, layout.pictures, layout.grids, strict=True):
        assert grid.image_size == size and len(own) == len(grid)
    # Pictures follow each other in the prompt, before the question.
    ends = [(own[0], own[-1]) for own in layout.pictures]
    assert all(one[1] < other[0] for one, other in itertools.pairwise(ends))
    found = visual_access(mllm, [item], [response(item)])
    parts = found.pictures().groupby("step")["mass"].sum()
    np.testing.assert_allclose(parts, found.steps("mass")["value"], rtol=1e-5)


def test_controls_are_looked_for_in_the_picture_of_the_evidence():
    """Evidence that fills the small second picture has no room there, only in the first."""
    steps = (Step("The star is red.", ((0, 0, 20, 20),), (2,)),)
    problem = several(sizes=((200, 200), (20, 20)), steps=steps)
    (said,) = data_coverage([problem, several("b", answer="blue", steps=())]).warnings
    assert "1 of 1 with nothing, for lack of room" in said and "evidence is 100%" in said
