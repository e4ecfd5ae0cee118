"""The two terms on numbers one can check by hand, and their gradients by finite differences."""

import math

import pytest
import torch

from attcot_analysis.errors import TrainingError
from attcot_analysis.train.objective import AttCoTConfig, visual_access_loss, visual_mass
from attcot_analysis.train.terms import commitment_loss, commitment_notes


def test_hinge_is_the_mean_shortfall_over_counted_rows():
    masses = {0: torch.tensor([[[0.2, 0.9, 0.5]]]), 1: torch.tensor([[[0.4, 0.9, 0.5]]])}
    counted = torch.tensor([[True, True, False]])
    config = AttCoTConfig(lambda_vis=1, vis_target=0.6)
    # Layer means are 0.3 and 0.9; shortfalls 0.3 and 0.
    mass = visual_mass(masses, config)
    assert visual_access_loss(mass, counted, config).item() == pytest.approx(0.15)


def test_the_price_of_looking_is_the_mass_itself():
    config = AttCoTConfig(lambda_vis=1, vis_form="price", vis_layers="all")
    mass = torch.tensor([[0.2, 0.4], [0.9, 0.5]])
    counted = torch.tensor([[True, True], [True, False]])
    assert visual_access_loss(mass, counted, config).item() == pytest.approx((0.3 + 0.9) / 2)
    assert config.layers(3) == (0, 1, 2)


def test_items_count_alike_however_many_rows_they_have():
    mass = torch.tensor([[0.2, 0.2, 0.2], [0.5, 0.9, 0.9]])
    counted = torch.tensor([[True, True, True], [True, False, False]])
    config = AttCoTConfig(lambda_vis=1, vis_target=0.6)
    whole = visual_access_loss(mass, counted, config)
    assert whole.item() == pytest.approx((0.4 + 0.1) / 2)
    parts = [visual_access_loss(mass[at : at + 1], counted[at : at + 1], config) for at in (0, 1)]
    assert whole.item() == pytest.approx(torch.stack(parts).mean().item())


def test_only_chosen_heads_count():
    masses = {1: torch.tensor([[[0.1], [0.5]]]), 2: torch.tensor([[[0.3], [0.9]]])}
    config = AttCoTConfig(lambda_vis=1, vis_heads=((1, 1), (2, 0)))
    assert config.layers(4) == (1, 2)
    assert visual_mass(masses, config).item() == pytest.approx(0.4)
    with pytest.raises(TrainingError, match="heads 0 to 1"):
        AttCoTConfig(vis_heads=((1, 5),)).heads(1, 2)
    with pytest.raises(TrainingError, match="layers 0 to 1"):
        AttCoTConfig(vis_heads=((4, 0),)).layers(2)


def test_log_form_and_empty_rows():
    config = AttCoTConfig(lambda_vis=1, vis_form="log")
    mass = torch.full((1, 2), 0.25)
    loss = visual_access_loss(mass, torch.tensor([[True, False]]), config)
    assert loss.item() == pytest.approx(-math.log(0.25), rel=1e-4)
    assert visual_access_loss(mass, torch.zeros(1, 2, dtype=torch.bool), config).item() == 0


def test_confidence_form_is_silent_below_chance_plus_margin():
    config = AttCoTConfig(lambda_commit=1, commit_margin=0.1)
    sure = torch.tensor([[0.7, 0.1, 0.1, 0.1]]).log()
    unsure = torch.tensor([[0.3, 0.3, 0.2, 0.2]]).log()
    assert commitment_loss([sure], [(0,)], [2], [0], config).item() == pytest.approx(0.35)
    assert commitment_loss([unsure], [(0,)], [2], [0], config).item() == 0
    both = commitment_loss([sure, unsure], [(0,), (0,)], [2, 2], [0, 1], config)
    assert both.item() == pytest.approx(0.175)


def test_answer_form_rises_from_k_zero_and_weighs_early_steps_more():
    config = AttCoTConfig(lambda_commit=1, commit_form="answer", commit_until=1.0)
    p = torch.tensor([[0.4, 0.6], [0.9, 0.1]])
    loss = commitment_loss([p.log()], [(0, 1)], [2], [0], config)
    # k=0: at its own margin; k=1: margin 0.4 + 0.6/2 = 0.7, excess 0.2, weight 1/2; mean of two.
    assert loss.item() == pytest.approx(0.05)


def test_margins_and_weights_can_be_chosen_apart_from_the_form():
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log()

    def loss(**options):
        config = AttCoTConfig(lambda_commit=1, commit_margin=0.1, **options)
        return commitment_loss([p], [(0, 1)], [2], [0], config).item()

    # Chance and margin are 0.6; at k = 1 a rising margin is 0.8 and a falling weight 1/2.
    assert loss() == pytest.approx((0.3 + 0.3) / 2)
    assert loss(commit_margins="rising") == pytest.approx((0.3 + 0.1) / 2)
    assert loss(commit_weights="falling") == pytest.approx((0.3 + 0.15) / 2)
    paper = AttCoTConfig.reconstruction()
    assert (paper.commit_form, paper.early_steps(3), paper.vis_region) == (
        "answer",
        (0, 1, 2),
        "image",
    )


def test_the_answer_form_does_not_push_at_the_margin_it_sets_itself():
    """At k = 0 excess is 0 by definition; an optimizer must not see a slope there."""
    config = AttCoTConfig.reconstruction()
    scores = torch.tensor([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]], requires_grad=True)
    loss = commitment_loss([scores], [(0, 1)], [2], [0], config)
    loss.backward()
    assert loss.item() == 0 and not scores.grad.any()


def test_items_of_other_sizes_do_not_change_an_item_s_commitment():
    generator = torch.Generator().manual_seed(5)
    config = AttCoTConfig(lambda_commit=1, commit_margin=0.0)
    first = torch.randn(3, 4, generator=generator)
    second = torch.randn(1, 2, generator=generator)
    alone = [
        commitment_loss([first], [(0, 1, 2)], [6], [1], config),
        commitment_loss([second], [(0,)], [2], [0], config),
    ]
    together = commitment_loss([first, second], [(0, 1, 2), (0,)], [6, 2], [1, 0], config)
    assert together.item() == pytest.approx(torch.stack(alone).mean().item())


def test_what_is_logged_of_commitment():
    sure, torn = [9.0, 0.0], [0.0, 9.0]
    scores = [torch.tensor(one) for one in ([sure, torn, sure], [torn, torn], [sure, sure, sure])]
    steps = [(0, 1, 2), (0, 1), (0, 2, 4)]
    notes = commitment_notes(scores, steps, [4, 2, 5], [0, 0, 0])
    # Settles at k = 2 of 4; never; at k = 0.
    assert notes["commitment_position"].item() == pytest.approx((0.5 + 1 + 0) / 3)
    assert notes["early_confidence"].item() == pytest.approx(torch.tensor(sure).softmax(0)[0])


@pytest.mark.parametrize("form", ["confidence", "answer"])
def test_commitment_gradient_is_that_of_finite_differences(form):
    config = AttCoTConfig(lambda_commit=1, commit_form=form, commit_margin=0.0, commit_until=1.0)
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(2, 4, generator=generator)
    scores[1, 1] += 3  # well above its margin, so that no hinge lies at its corner

    def loss(values):
        return commitment_loss([values], [(1, 2)], [4], [1], config)

    leaf = scores.clone().requires_grad_(True)
    loss(leaf).backward()
    for row in range(1, 2):
        for column in range(4):
            step = torch.zeros_like(scores)
            step[row, column] = 1e-2
            slope = (loss(scores + step) - loss(scores - step)) / 2e-2
            assert leaf.grad[row, column].item() == pytest.approx(slope.item(), abs=2e-3)


def test_access_gradient_is_that_of_finite_differences():
    config = AttCoTConfig(lambda_vis=1, vis_target=0.6)
    mass = torch.tensor([[[0.2, 0.5, 0.9], [0.4, 0.3, 0.8]]])
    counted = torch.ones(1, 3, dtype=torch.bool)
    leaf = mass.clone().requires_grad_(True)
    visual_access_loss(visual_mass({0: leaf}, config), counted, config).backward()
    for head in range(2):
        for row in range(3):
            step = torch.zeros_like(mass)
            step[0, head, row] = 1e-3
            up = visual_access_loss(visual_mass({0: mass + step}, config), counted, config)
            down = visual_access_loss(visual_mass({0: mass - step}, config), counted, config)
            slope = (up - down) / 2e-3
            assert leaf.grad[0, head, row].item() == pytest.approx(slope.item(), abs=1e-3)


def test_early_steps_layers_and_ramp():
    config = AttCoTConfig(commit_until=0.5, warmup=0.2)
    assert config.early_steps(3) == (0, 1)
    assert config.early_steps(4) == (0, 1)
    assert AttCoTConfig(commit_until=1.0).early_steps(3) == (0, 1, 2)
    assert config.layers(6) == (2, 3)
    assert config.layers(1) == (0,)
    assert AttCoTConfig(vis_layers=(1, 3)).layers(4) == (1, 3)
    assert [config.ramp(x) for x in (0.0, 0.1, 0.2, 1.0)] == [0.0, 0.5, 1.0, 1.0]
    assert not AttCoTConfig().active and AttCoTConfig(lambda_vis=0.1).active


@pytest.mark.parametrize(
    "wrong",
    [
        {"lambda_vis": -0.1},
        {"lambda_commit": -1},
        {"lambda_commit": math.nan},
        {"lambda_vis": math.inf},
        {"commit_until": 0.0},
        {"vis_target": 1.2},
        {"vis_form": "square"},
        {"commit_form": "late"},
        {"vis_region": "corner"},
        {"vis_layers": ()},
        {"vis_heads": ()},
        {"vis_rows": "question", "vis_region": "evidence"},
        {"commit_weights": "random"},
    ],
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(TrainingError):
        AttCoTConfig(**wrong)


def test_a_layer_the_model_does_not_have_is_refused():
    with pytest.raises(TrainingError, match="layers 0 to 3"):
        AttCoTConfig(vis_layers=(2, 9)).layers(4)
