"""Attributions: known games, sums that must come out, and pictures in which one place matters."""

import ast
import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from families import shared_family
from PIL import Image
from tiny import noise_image

from attcot_analysis.errors import LayoutError, MeasureError
from attcot_analysis.measures import attributions
from attcot_analysis.measures.attributions import (
    attribution_maps,
    region_values,
    spread,
    token_sums,
)
from attcot_analysis.measures.maps import response_parts
from attcot_analysis.models import TokenGrid, collate, encode, load_mllm
from attcot_analysis.problems import Problem, Step, load_problems, render_response
from attcot_analysis.shipped import TESTBED_MODEL, TESTBED_PROBLEMS, shipped
from attcot_lab.deletion import deletion_areas, deletion_curves, order_curves

RESPONSE = "<think>\n1. The star is in cell a1.\n</think>\n<answer>red</answer>"


@pytest.fixture(scope="module")
def problem():
    steps = (Step("One.", ((0, 0, 32, 32),)),)
    return Problem("p", noise_image(48, 32, 1), "What color?", ("red", "blue"), "red", steps)


@torch.no_grad()
def log_p(mllm, problem, image):
    """Log-probabilities of step and answer, (2,), one picture at a time."""
    asked = response_parts(mllm, problem, RESPONSE, image=image)
    logits = mllm.model(**collate(mllm, [asked.item])).logits[0].float().log_softmax(-1)
    ids = asked.item.input_ids
    return np.array(
        [sum(float(logits[t - 1, ids[t]]) for t in range(*part.span)) for part in asked.parts]
    )


def mean_picture(picture):
    colour = tuple(round(float(v)) for v in np.asarray(picture).mean(axis=(0, 1)))
    return Image.new("RGB", picture.size, colour)


# --- Games with known values --------------------------------------------------------------------


def game(shown):
    """Region 0 matters for the first score; 1 and 2 only together, 3 never, for the second."""
    return torch.stack([3 * shown[:, 0] + 1, shown[:, 1] * shown[:, 2] - shown[:, 0]], dim=1)


def exact_shapley(score, n):
    total = np.zeros((2, n))
    orders = list(permutations(range(n)))
    for order in orders:
        shown = torch.zeros(1, n)
        before = score(shown)
        for region in order:
            shown[0, region] = 1
            after = score(shown)
            total[:, region] += (after - before)[0].numpy()
            before = after
    return total / len(orders)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_occlusion_of_a_known_game(batch_size):
    found = region_values(game, 4, "occlusion", batch_size=batch_size)
    np.testing.assert_allclose(found, [[3, 0, 0, 0], [-1, 1, 1, 0]], atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_shapley_values_of_a_known_game(batch_size):
    expected = exact_shapley(game, 4)
    np.testing.assert_allclose(expected, [[3, 0, 0, 0], [-1, 0.5, 0.5, 0]])
    found = region_values(game, 4, "shapley", n_samples=300, batch_size=batch_size)
    np.testing.assert_allclose(found, expected, atol=0.1)
    np.testing.assert_allclose(found.sum(axis=1), [3, 0], atol=1e-5)


def test_what_two_regions_say_alike_is_seen_by_shapley_values_only():
    def either(shown):
        return shown[:, :2].amax(dim=1, keepdim=True)

    np.testing.assert_allclose(region_values(either, 3, "occlusion"), 0, atol=1e-6)
    found = region_values(either, 3, "shapley", n_samples=300)
    np.testing.assert_allclose(found, [[0.5, 0.5, 0]], atol=0.1)


def test_orders_come_from_the_seed_and_no_other_randomness_is_touched():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    seeds = (1, 1, 2, 3, 4, 5)
    first, again, *others = (
        region_values(game, 4, "shapley", n_samples=1, seed=seed) for seed in seeds
    )
    torch.testing.assert_close(torch.rand(3), expected)
    np.testing.assert_array_equal(first, again)
    assert not all(np.array_equal(first, other) for other in others)


# --- Deletion and insertion ---------------------------------------------------------------------


def test_areas_of_a_known_game_and_that_a_wrong_map_is_no_better_than_random_orders():
    """Planted: of eight regions two carry the score, and a map knows them, another the others."""

    def score(shown):
        return 4 * shown[:, 3] + 2 * shown[:, 5]

    right, tied = np.zeros(8), np.full(8, 0.5)
    right[[3, 5]] = 2, 1
    maps = {"occlusion": right, "attention": -right, "rollout": tied}
    curves = order_curves(score, maps, n_points=8, n_random=200)
    table = deletion_areas(curves).set_index("source")
    # By hand: deletion 6, 2, 0, ..., insertion 0, 4, 6, ..., by trapezoids of width 1/8.
    assert table.loc["occlusion", "deletion"] == pytest.approx((6 / 2 + 2) / 8)
    assert table.loc["occlusion", "insertion"] == pytest.approx((4 + 6 * 6 + 6 / 2) / 8)
    assert table.loc["occlusion", "gain"] == pytest.approx(-table.loc["attention", "gain"])
    assert table.loc["random", "gain"] == pytest.approx(0, abs=0.5)
    assert (
        table.loc["occlusion", "beyond_random"] > 3 > -3 > table.loc["attention", "beyond_random"]
    )
    # A map that ranks nothing goes by place, which here knows nothing.
    assert abs(table.loc["rollout", "beyond_random"]) < 1.2


def test_curves_begin_and_end_at_the_picture_and_the_painted_one(random_mllm, problem):
    maps = attribution_maps(random_mllm, problem, RESPONSE, method="occlusion")
    whole, bare = (
        log_p(random_mllm, problem, picture)
        for picture in (problem.image, mean_picture(problem.image))
    )
    for step, place in ((1, 0), (0, 1)):
        curves = deletion_curves(
            random_mllm, problem, RESPONSE, [maps], step=step, n_points=2, n_random=1
        )
        ends = curves[curves["share"].isin([0, 1])].pivot_table(
            index="way", columns="share", values="log_p"
        )
        np.testing.assert_allclose(ends.loc["deletion"], [whole[place], bare[place]], atol=1e-4)
        np.testing.assert_allclose(ends.loc["insertion"], [bare[place], whole[place]], atol=1e-4)
    with pytest.raises(MeasureError, match="not one of each source on 6 image tokens"):
        deletion_curves(random_mllm, problem, RESPONSE, [maps, maps])
    with pytest.raises(LayoutError, match="has no step 4 with a map"):
        deletion_curves(random_mllm, problem, RESPONSE, [maps], step=4)


# --- Regions and tokens -------------------------------------------------------------------------


def test_values_are_spread_by_area():
    grid = TokenGrid.regular((40, 20), 2, 4)
    np.testing.assert_allclose(spread(grid, grid.boxes), np.eye(8))
    halves = TokenGrid.regular((40, 20), 1, 2).boxes
    expected = np.array([[1, 1, 0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0, 1, 1]]).T / 4
    np.testing.assert_allclose(spread(grid, halves), expected)


def test_overlapping_tokens_share_and_unseen_regions_give_nothing():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [10, 0, 20, 10]], dtype=float)
    grid = TokenGrid((40, 10), boxes)
    found = spread(grid, TokenGrid.regular((40, 10), 1, 4).boxes)
    np.testing.assert_allclose(found.sum(axis=0), [1, 1, 0, 0])
    np.testing.assert_allclose(found[:, 0], [0.5, 0.5, 0])


def test_pixels_belong_to_the_token_whose_box_was_painted(random_mllm):
    """Change one token's box; only that token's sum of changed pixels may be other than zero."""
    image = noise_image(96, 64, 3)
    before = encode(random_mllm, image, "What?")
    grid = before.layout.grids[0]
    for token in (0, 7, len(grid) - 1):
        painted = image.copy()
        painted.paste((255, 255, 255), tuple(int(edge) for edge in grid.boxes[token]))
        after = encode(random_mllm, painted, "What?")
        change = (after.vision["pixel_values"] - before.vision["pixel_values"]).abs()
        sums = token_sums(random_mllm, before, change.double().numpy())
        assert np.flatnonzero(sums > 1e-6).tolist() == [token]


def test_pixels_in_one_picture_are_summed_over_blocks(random_mllm):
    item = encode(random_mllm, noise_image(64, 32, 3), "What?")
    grid = item.layout.grids[0]
    assert grid.shape == (2, 4)
    item.vision.pop("image_grid_thw")
    pixels = np.zeros((1, 3, 20, 40))
    pixels[0, :, 10:, 30:] = 1
    assert token_sums(random_mllm, item, pixels).tolist() == [0] * 7 + [300]
    with pytest.raises(MeasureError, match="use occlusion or shapley"):
        token_sums(random_mllm, item, np.zeros((3, 3, 20, 40)))
    with pytest.raises(MeasureError, match="use occlusion or shapley"):
        token_sums(random_mllm, item, np.zeros((1, 3, 21, 40)))


@pytest.mark.parametrize("name", ["lfm2_vl", "minicpmv4_6", "gemma4"])
def test_patches_in_a_row_are_no_picture(name):
    """They are arrays that could be cut into as many blocks as the one grid has tokens."""
    mllm = shared_family(name)
    item = encode(mllm, noise_image(40, 40), "What?")
    pixels = item.vision["pixel_values"].numpy()
    assert len(item.layout.grids[0].views) == 1
    for wider in range(1, 5):
        with pytest.raises(MeasureError, match="use occlusion or shapley"):
            token_sums(mllm, item, np.zeros((*pixels.shape[:-1], wider * pixels.shape[-1])))


# --- Models -------------------------------------------------------------------------------------


def test_occlusion_equals_painting_by_hand(random_mllm, problem):
    maps = attribution_maps(random_mllm, problem, RESPONSE, method="occlusion", batch_size=4)
    picture = problem.image
    whole, blank = log_p(random_mllm, problem, picture), mean_picture(picture)
    expected = []
    for x0, y0, x1, y1 in maps.grid.boxes.astype(int).tolist():
        painted = picture.copy()
        painted.paste(blank.crop((x0, y0, x1, y1)), (x0, y0))
        expected.append(whole - log_p(random_mllm, problem, painted))
    np.testing.assert_allclose(maps.weights[0, 0], np.array(expected).T, atol=1e-4)
    assert maps.source == "occlusion" and maps.weights.shape == (1, 1, 2, 6)
    assert np.abs(maps.weights).max() > 1e-2


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"method": "shapley", "n_samples": 2}, 1e-4),
        ({"method": "shapley", "n_samples": 1, "regions": (3, 2), "fill": "grey"}, 1e-4),
        ({"method": "integrated_gradients", "n_steps": 12, "tolerance": 0.02}, 0.02),
    ],
)
def test_attributions_add_up_to_what_the_picture_changes(random_mllm, problem, options, tolerance):
    maps = attribution_maps(random_mllm, problem, RESPONSE, **options)
    picture = problem.image
    blank = mean_picture(picture)
    if options.get("fill") == "grey":
        blank = Image.new("RGB", picture.size, (128, 128, 128))
    expected = log_p(random_mllm, problem, picture) - log_p(random_mllm, problem, blank)
    assert np.abs(expected).min() > 0.01
    found = maps.weights[0, 0].sum(axis=-1)
    np.testing.assert_allclose(found, expected, atol=tolerance * max(1.0, np.abs(expected).max()))


def test_integrated_gradients_leave_nothing_behind(random_mllm, problem):
    attribution_maps(
        random_mllm,
        problem,
        RESPONSE,
        method="integrated_gradients",
        targets="answer",
        n_steps=2,
        tolerance=math.inf,
    )
    for weight in random_mllm.model.parameters():
        assert weight.grad is None and weight.requires_grad
    assert not random_mllm.model.training


def test_integrated_gradients_that_do_not_add_up_are_refused(random_mllm, problem):
    """Planted: two points cannot follow the model along the way, and no more are allowed."""
    options = {"method": "integrated_gradients", "n_steps": 2, "max_steps": 3}
    with pytest.raises(MeasureError, match=r"with 2 points where log p differs by"):
        attribution_maps(random_mllm, problem, RESPONSE, **options, tolerance=1e-4)
    loose = attribution_maps(random_mllm, problem, RESPONSE, **options, tolerance=math.inf)
    exact = attribution_maps(random_mllm, problem, RESPONSE, method="integrated_gradients")
    assert np.abs(loose.weights - exact.weights).max() > 1e-3


def test_unknown_choices_are_refused(random_mllm, problem):
    with pytest.raises(MeasureError, match="method is 'lime'"):
        attribution_maps(random_mllm, problem, RESPONSE, method="lime")
    with pytest.raises(MeasureError, match="fill is 'pink'"):
        attribution_maps(random_mllm, problem, RESPONSE, fill="pink")
    with pytest.raises(LayoutError, match=r"Regions are \(0, 2\)"):
        attribution_maps(random_mllm, problem, RESPONSE, regions=(0, 2))


@pytest.fixture(scope="module")
def of_the_trained_model():
    """Occlusion of the nine cells, for every part of right responses: (problem, maps)."""
    mllm = load_mllm(shipped(TESTBED_MODEL), dtype="float32", device="cpu")
    return [
        (
            problem,
            attribution_maps(
                mllm,
                problem,
                render_response(problem.steps, problem.answer),
                regions=(3, 3),
                batch_size=10,
            ),
        )
        for problem in load_problems(shipped(TESTBED_PROBLEMS))[:8]
    ]


@pytest.mark.golden
def test_occlusion_finds_the_cell_that_must_be_read(of_the_trained_model):
    """Planted truth: an arrow is read from its cell, the answer from the last; chance is 1 in 9."""
    hits = []
    for problem, maps in of_the_trained_model:
        needed = [*maps.step_weights()[:-1], maps.answer_weights()]
        for values, step in zip(needed, problem.steps, strict=True):
            hits.append(maps.grid.coverage(step.boxes)[values.argmax()] > 0.5)
    assert len(hits) == 24 and np.mean(hits) >= 0.75


@pytest.mark.golden
def test_occlusion_is_silent_where_nothing_must_be_read(of_the_trained_model):
    """The last step names the cell that the step before has led to."""
    copied = [np.abs(maps.step_weights()[-1]).sum() for _, maps in of_the_trained_model]
    read = [np.abs(maps.step_weights()[0]).sum() for _, maps in of_the_trained_model]
    assert max(copied) < 0.05 and np.median(read) > 1


def test_captum_is_imported_only_where_it_is_used():
    source = ast.parse(Path(attributions.__file__).read_text(encoding="utf-8"))
    names = {node.module for node in source.body if isinstance(node, ast.ImportFrom)}
    names |= {a.name for node in source.body if isinstance(node, ast.Import) for a in node.names}
    assert "numpy" in names and not any(name.startswith("captum") for name in names)
