"""Visual access on models whose attention is known, and against eager attention."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import noise_image, tiny_mllm

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.access import (
    IMAGE,
    QUESTION,
    SYSTEM,
    TEXT,
    VisualAccess,
    answer_access,
    quantities,
    visual_access,
)
from attcot_analysis.models import collate, encode_problem
from attcot_analysis.problems import Problem, Step, render_response


def problem(name, seed, steps, size=(96, 96)):
    return Problem(
        id=name,
        image=noise_image(*size, seed),
        question="What color is the shape you reach?",
        candidates=("red", "blue"),
        answer="red",
        steps=steps,
    )


@pytest.fixture(scope="module")
def items():
    """Two pictures of 36 and 24 tokens of 16 x 16 pixels; evidence covers known shares of them."""
    return [
        problem(
            "a",
            1,
            (
                Step("The star is in cell a1.", ((0, 0, 16, 16), (8, 0, 24, 16))),
                Step("No picture is needed here."),
                Step("Cell b1 holds a red circle.", ((32, 32, 64, 64),)),
            ),
        ),
        problem("b", 2, (Step("The square is green.", ((0, 0, 64, 96),)),), size=(64, 96)),
    ]


@pytest.fixture(scope="module")
def responses(items):
    return [render_response(item.steps, item.answer) for item in items]


def test_uniform_attention_gives_the_numbers_one_can_count(items, responses):
    mllm = tiny_mllm()
    for layer in mllm.model.model.language_model.layers:
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)
        torch.nn.init.zeros_(layer.self_attn.q_proj.bias)
    table = visual_access(mllm, items, responses).table
    assert len(table) == (3 + 1) * mllm.n_layers * mllm.n_heads
    covered = {("a", 1): 1.5, ("a", 2): np.nan, ("a", 3): 4.0, ("b", 1): 24.0}
    for item, response in zip(items, responses, strict=True):
        layout = encode_problem(mllm, item, response=response).layout
        n_image, n_prompt = len(layout.image), layout.response.start
        for number, step in enumerate(layout.steps, start=1):
            part = table[(table["item"] == item.id) & (table["step"] == number)]
            seen = np.arange(step.start, step.stop)  # row t - 1 sees t tokens
            expected = {
                "n_steps": len(layout.steps),
                "mass": (n_image / seen).mean(),
                "share": n_image / n_prompt,
                "over_system": n_image / len(layout.system),
                "density": 1.0,
                "evidence_mass": (covered[item.id, number] / seen).mean(),
                "evidence_share": covered[item.id, number] / n_image,
                "rows": step.size,
            }
            for name, value in expected.items():
                np.testing.assert_allclose(part[name], value, rtol=1e-5, err_msg=name)


def test_a_ratio_to_less_than_float32_holds_is_missing():
    """5e-41 in one pass is 0 in another over the same tokens."""
    masses = np.array([[[1e-24, 0.5, system, 0.5]] for system in (5e-41, 0.0, 1e-30)])
    found = quantities(masses, n_image=5, n_visible=np.array([10]), evidence={}, sinks=False)
    np.testing.assert_allclose(found["over_system"], [np.nan, np.nan, 1e6])


def test_visual_mass_over_system_mass_rises_when_the_first_tokens_sink_shrinks():
    """Planted: a look twice as long, a smaller sink that looks alike, and no sink at all."""
    planted = {"as before": (0.2, 0.4), "looks": (0.4, 0.4), "sink": (0.2, 0.2), "none": (0.2, 0.0)}
    masses = np.zeros((4, 1, 4))
    for head, (image, system) in enumerate(planted.values()):
        masses[head, 0, [IMAGE, TEXT, SYSTEM, QUESTION]] = image, 1 - image, system, 0.1
    found = quantities(masses, n_image=5, n_visible=np.array([10]), evidence={}, sinks=False)
    np.testing.assert_allclose(found["over_system"], [0.5, 1.0, 1.0, np.nan])
    # Mass tells the two apart, which this ratio does not.
    np.testing.assert_allclose(found["mass"], [0.2, 0.4, 0.2, 0.2])


@torch.no_grad()
def test_access_equals_a_naive_reading_of_eager_attention(random_mllm, items, responses):
    table = visual_access(random_mllm, items, responses, layers=[0, 2]).table.set_index(
        ["item", "step", "layer", "head"]
    )
    eager = copy.deepcopy(random_mllm.model)
    eager.set_attn_implementation({"text_config": "eager"})
    for item, response in zip(items, responses, strict=True):
        encoded = encode_problem(random_mllm, item, response=response)
        weights = eager(**collate(random_mllm, [encoded]), output_attentions=True).attentions
        image, grid = encoded.layout.image, encoded.layout.grids[0]
        for number, step in enumerate(encoded.layout.steps, start=1):
            for layer in (0, 2):
                for head in range(random_mllm.n_heads):
                    found = table.loc[(item.id, number, layer, head)]
                    rows = weights[layer][0, head, step.start - 1 : step.stop - 1].numpy()
                    mass = rows[:, image].sum(1).mean()
                    prompt = rows[:, : encoded.prompt_length].sum(1).mean()
                    assert found["mass"] == pytest.approx(mass, abs=1e-5)
                    assert found["share"] == pytest.approx(mass / prompt, abs=1e-5)
                    system = rows[:, encoded.layout.system].sum(1).mean()
                    assert found["over_system"] == pytest.approx(mass / system, rel=1e-4)
                    boxes = item.steps[number - 1].boxes
                    if not boxes:
                        assert np.isnan(found["evidence_share"])
                        continue
                    evidence = sum(
                        weight * grid.coverage(boxes)[at]
                        for at, weight in enumerate(rows[:, image].mean(0))
                    )
                    assert found["evidence_share"] == pytest.approx(evidence / mass, abs=1e-4)


def test_the_answer_row_by_counting(items, responses):
    mllm = tiny_mllm()
    for layer in mllm.model.model.language_model.layers:
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)
        torch.nn.init.zeros_(layer.self_attn.q_proj.bias)
    table = answer_access(mllm, items, responses).table
    assert len(table) == 2 * mllm.n_layers * mllm.n_heads and (table["rows"] == 1).all()
    # Evidence of all steps, and of the last step with boxes, in tokens of 16 x 16 pixels.
    for item, response, every, last in zip(items, responses, (5.5, 24.0), (4.0, 24.0), strict=True):
        layout = encode_problem(mllm, item, response=response).layout
        n_image, seen = len(layout.image), layout.answer.start
        part = table[table["item"] == item.id]
        expected = {
            "n_steps": layout.n_steps,
            "mass": n_image / seen,
            "share": n_image / layout.response.start,
            "density": 1.0,
            "evidence_mass": every / seen,
            "evidence_share": every / n_image,
            "last_evidence_mass": last / seen,
            "last_evidence_share": last / n_image,
        }
        for name, value in expected.items():
            np.testing.assert_allclose(part[name], value, rtol=1e-5, err_msg=name)


@torch.no_grad()
def test_the_answer_row_equals_eager_attention(random_mllm, items, responses):
    table = answer_access(random_mllm, items, responses, layers=[1]).table
    eager = copy.deepcopy(random_mllm.model)
    eager.set_attn_implementation({"text_config": "eager"})
    for item, response in zip(items, responses, strict=True):
        encoded = encode_problem(random_mllm, item, response=response)
        weights = eager(**collate(random_mllm, [encoded]), output_attentions=True).attentions[1]
        row = weights[0, :, encoded.layout.answer.start - 1][:, encoded.layout.image].numpy()
        last = [step.boxes for step in item.steps if step.boxes][-1]
        found = table[table["item"] == item.id]
        np.testing.assert_allclose(found["mass"], row.sum(1), rtol=1e-4)
        on_last = row @ encoded.layout.grids[0].coverage(last) / row.sum(1)
        np.testing.assert_allclose(found["last_evidence_share"], on_last, rtol=1e-4)


def test_responses_without_an_answer_are_named_or_left_out(random_mllm, items, responses):
    without_answer = [responses[0], responses[1].split("<answer>")[0]]
    kept = answer_access(random_mllm, items, without_answer, empty="skip")
    assert set(kept.table["item"]) == {"a"} and kept.skipped == {"no stated answer": ("b",)}
    with pytest.raises(MeasureError, match="Item b: its response states no answer"):
        answer_access(random_mllm, items, without_answer)
    with pytest.raises(MeasureError, match="No response states an answer"):
        answer_access(random_mllm, items[:1], ["nothing of that kind"], empty="skip")


def test_batches_and_token_ids_change_nothing(random_mllm, items, responses):
    ids = [random_mllm.tokenizer(response)["input_ids"] for response in responses]
    one = visual_access(random_mllm, items, responses, batch_size=1).table
    both = visual_access(random_mllm, items, ids, batch_size=2).table
    pd.testing.assert_frame_equal(one, both, rtol=1e-4, atol=1e-6)


def test_another_image_is_looked_at(random_mllm, items, responses):
    pictures = [noise_image(96, 96, 8), noise_image(96, 96, 9)]
    other = visual_access(random_mllm, items, responses, images=pictures).table
    assert not np.allclose(
        other["mass"], visual_access(random_mllm, items, responses).table["mass"]
    )


def test_a_step_the_problem_does_not_have_has_no_evidence(random_mllm, items):
    longer = render_response([*items[1].steps, "One more step."], "red")
    table = visual_access(random_mllm, items[1:], [longer]).table
    missing = table.groupby("step")["evidence_mass"].apply(lambda values: values.isna().all())
    assert missing.tolist() == [False, True]


def test_bad_input_is_refused_in_a_sentence(random_mllm, items, responses):
    empty = "<think>\n</think>\n<answer>red</answer>"
    with pytest.raises(MeasureError, match="Item b: its response has no rationale steps"):
        visual_access(random_mllm, items, [responses[0], empty])
    kept = visual_access(random_mllm, items, [responses[0], empty], empty="skip")
    assert set(kept.table["item"]) == {"a"} and kept.skipped == {"no rationale step": ("b",)}
    with pytest.raises(MeasureError, match="No response has a rationale step"):
        visual_access(random_mllm, items, [empty, empty], empty="skip")
    with pytest.raises(MeasureError, match="2 problems, 1 responses and no images"):
        visual_access(random_mllm, items, responses[:1])
    with pytest.raises(MeasureError, match="lacks mass"):
        VisualAccess(kept.table.drop(columns="mass"))


def test_trajectory_by_hand():
    rows = [
        {"item": item, "step": step, "n_steps": len(values), "layer": 0, "head": head}
        | dict.fromkeys(("mass", "share", "density"), value + head - 0.5)
        | dict.fromkeys(("evidence_mass", "evidence_share"), np.nan if step == 1 else 0.25)
        for item, values in {"falling": (0.8, 0.5, 0.4, 0.3), "single": (0.6,)}.items()
        for step, value in enumerate(values, start=1)
        for head in (0, 1)
    ]
    shuffled = pd.DataFrame(rows).sample(frac=1, random_state=0)
    found = VisualAccess(shuffled).items().set_index("item")
    falling = found.loc["falling"]
    assert falling["mass"] == pytest.approx(0.5)
    assert falling["mass_first_step"] == pytest.approx(0.8)
    assert falling["mass_last_step"] == pytest.approx(0.3)
    assert falling["mass_slope"] == pytest.approx(-0.64)
    assert falling["late_over_early"] == pytest.approx(0.35 / 0.65)
    assert falling["evidence_share"] == pytest.approx(0.25)
    single = found.loc["single"]
    assert single["mass"] == single["mass_last_step"] == pytest.approx(0.6)
    assert np.isnan(single["mass_slope"]) and np.isnan(single["late_over_early"])


def test_the_course_of_share_and_sink_free_mass_by_hand():
    """Mass falls by dilution alone: its share of the prompt stays, and so does what is no sink."""
    values = {
        "mass": (0.6, 0.4, 0.2),
        "share": (0.5, 0.5, 0.5),
        "sink_free_mass": (0.1, 0.2, 0.3),
        "sink_share": (0.5, 0.25, 0.0),
    }
    rest = dict.fromkeys(("density", "evidence_mass", "evidence_share"), 0.1)
    table = pd.DataFrame(
        {"item": "a", "step": (1, 2, 3), "n_steps": 3, "layer": 0, "head": 0, **rest, **values}
    )
    (found,) = VisualAccess(table).items(rho=0.4).to_dict("records")
    assert found["mass_slope"] == pytest.approx(-0.6)
    assert found["share_slope"] == pytest.approx(0.0, abs=1e-12)
    assert found["share_late_over_early"] == pytest.approx(1.0)
    assert found["sink_free_mass_slope"] == pytest.approx(0.3)
    assert found["sink_free_late_over_early"] == pytest.approx(3.0)
    assert found["sink_share"] == pytest.approx(0.25)
    assert found["steps_below"] == pytest.approx(1 / 3)
    assert "steps_below" not in VisualAccess(table).items()
