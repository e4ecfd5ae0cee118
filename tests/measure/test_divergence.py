"""Divergence along the rationale: against two plain forward passes, and planted."""

import numpy as np
import pandas as pd
import pytest
import torch
from families import FAMILY_NAMES, shared_family
from tiny import noise_image

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.divergence import TokenDivergence, token_divergence
from attcot_analysis.models import collate, encode_problem
from attcot_analysis.models import load as stack_module
from attcot_analysis.problems import Problem, Step, render_response
from attcot_analysis.problems.edits import EditOptions
from attcot_analysis.problems.fills import GREY
from attcot_analysis.stats.crossed import step_curve

STEPS = (Step("Go right.", ((0, 0, 16, 16),)), Step("Cell b1 holds a red circle."))


def problem(name, seed, size=(64, 48), steps=STEPS):
    return Problem(name, noise_image(*size, seed), "What color?", ("red", "blue"), "red", steps)


ITEMS = [problem("b", 1), problem("a", 2, (96, 32)), problem("c", 3, steps=())]
RESPONSES = [render_response(STEPS, "red"), render_response(STEPS[:1], "blue")]
RESPONSES.append(render_response(STEPS, "blue"))


def full_log_probs(mllm, item, response, image):
    """All log-probabilities of one plain forward pass, ``(T, V)``, with the item's input."""
    encoded = encode_problem(mllm, item, response=response, image=image)
    with torch.no_grad():
        logits = mllm.model(**collate(mllm, [encoded])).logits[0]
    return encoded, logits.double().log_softmax(-1).numpy()


@pytest.mark.parametrize("name", [*FAMILY_NAMES, "lfm2_vl"])
def test_it_equals_two_plain_forward_passes_token_by_token(name):
    """Pictures of another size too: there the tokens lie at other positions."""
    mllm = shared_family(name)
    images = [noise_image(32, 80, 7 + at) for at in range(3)]
    found = token_divergence(mllm, ITEMS, RESPONSES, images=images).table
    assert tuple(found.columns) == TokenDivergence.columns
    for item, response, image in zip(ITEMS, RESPONSES, images, strict=True):
        first, p = full_log_probs(mllm, item, response, None)
        second, q = full_log_probs(mllm, item, response, image)
        expected = []
        for step, span in enumerate(first.layout.steps, start=1):
            for t in range(span.start, span.stop):
                token, u = t - first.prompt_length, t - first.prompt_length + second.prompt_length
                one, other = p[t - 1], q[u - 1]  # the rows that predict the token
                kl = float((np.exp(one) * (one - other)).sum())
                own = int(first.input_ids[t])
                expected.append((item.id, token, step, kl, one[own], other[own]))
        expected = pd.DataFrame(expected, columns=list(TokenDivergence.columns))
        part = found[found["item"] == item.id].reset_index(drop=True)
        pd.testing.assert_frame_equal(part, expected, atol=2e-4, check_exact=False)
        assert part["kl"].max() > 1e-3


def test_an_unchanged_picture_gives_zero(random_mllm):
    found = token_divergence(random_mllm, ITEMS, RESPONSES, images=[i.image for i in ITEMS]).table
    assert found["kl"].abs().max() < 1e-6
    np.testing.assert_allclose(found["log_p_before"], found["log_p_after"], atol=1e-6)


def test_batches_and_few_rows_at_once_change_nothing(random_mllm, monkeypatch):
    whole = token_divergence(random_mllm, ITEMS, RESPONSES).table
    monkeypatch.setattr(stack_module, "_LOGITS_AT_ONCE", 1)
    pieces = token_divergence(random_mllm, ITEMS, RESPONSES, batch_size=1).table
    pd.testing.assert_frame_equal(whole, pieces, atol=1e-5, check_exact=False)


def test_the_edit_is_the_one_asked_for_and_items_without_it_are_named(random_mllm):
    greys = [item.image.copy() for item in ITEMS]
    for grey in greys:
        grey.paste(GREY, (0, 0, 16, 16))
    options = EditOptions(fill="grey")
    found = token_divergence(random_mllm, ITEMS, RESPONSES, edit="occlude", options=options)
    assert found.skipped == {"no edit occlude": ("c",)}
    expected = token_divergence(random_mllm, ITEMS[:2], RESPONSES[:2], images=greys[:2]).table
    pd.testing.assert_frame_equal(found.table, expected, atol=1e-6, check_exact=False)


def test_steps_by_hand():
    table = pd.DataFrame(
        [("q", 3, 1, 0.2, -1.0, -2.0), ("q", 4, 1, 0.4, -1.0, -1.0), ("q", 5, 2, 0.1, 0.0, -3.0)],
        columns=list(TokenDivergence.columns),
    )
    assert TokenDivergence(table).steps()["value"].tolist() == pytest.approx([0.3, 0.1])
    lost = TokenDivergence(table).steps("delta_log_p")
    assert lost["value"].tolist() == pytest.approx([0.5, 3.0])
    curve = step_curve({0: lost}, axis="step")
    assert curve["step"].tolist() == [1, 2] and curve["n"].tolist() == [1, 1]
    with pytest.raises(MeasureError, match="lacks kl"):
        TokenDivergence(table.drop(columns="kl"))


def test_bad_input_is_one_sentence(random_mllm):
    with pytest.raises(MeasureError, match="Item b: its response has no rationale steps"):
        token_divergence(random_mllm, ITEMS[:1], ["<answer>red</answer>"])
    with pytest.raises(MeasureError, match="No item allows the edit 'occlude'"):
        token_divergence(random_mllm, ITEMS[2:], RESPONSES[2:], edit="occlude")
    skipped = [RESPONSES[0], "<answer>red</answer>", RESPONSES[2]]
    with pytest.raises(MeasureError, match="No item with a rationale step allows"):
        token_divergence(
            random_mllm,
            ITEMS[1:],
            skipped[1:],
            edit="occlude",
            empty="skip",
        )


@pytest.mark.golden
def test_hiding_one_step_s_evidence_diverges_at_that_step(testbed):
    """Planted by the picture: a step that names an arrow can only be read from its own cell."""
    for hidden in (1, 2):
        options = EditOptions(steps=(hidden,))
        result = token_divergence(*testbed, edit="occlude", options=options)
        kl = result.steps().groupby("step")["value"].mean()
        assert kl.idxmax() == hidden
        assert kl[hidden] > 5 * kl.drop(hidden).max()


@pytest.mark.golden
def test_the_end_s_colour_is_not_in_the_rationale_so_the_twin_hardly_diverges(testbed):
    twin = token_divergence(*testbed, edit="twin").steps()["value"].mean()
    swapped = token_divergence(*testbed, edit="swap").steps()["value"].mean()
    assert twin < 0.01 < 0.1 < swapped
