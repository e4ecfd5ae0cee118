"""The tuned lens: against torch's own optimiser, against hidden states, and planted."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import noise_image, tiny_mllm

from attcot_analysis.attention.candidates import candidate_tokens
from attcot_analysis.errors import MeasureError, RunError
from attcot_analysis.measures.lens import lens_commitment
from attcot_analysis.measures.translators import Translators, fit_translators
from attcot_analysis.models import encode_problem
from attcot_analysis.problems import Problem, Step, render_response

COLORS = ("green", "white", "yellow")
WORDS = ("Go right.", "Go left.", "Cell b1 holds a red circle.", "Then up.", "It is the end.")


def problem(at):
    return Problem(f"{at}", noise_image(64, 48, at), f"What {WORDS[at % 5]}", COLORS, "green")


def response(at):
    steps = [Step(WORDS[(at * pick + pick) % 5]) for pick in (1, 2, 3)]
    return render_response(steps, COLORS[at % 3])


ITEMS, RESPONSES = [problem(at) for at in range(20)], [response(at) for at in range(20)]


def rotated(layers=3):
    """Layers behind the first add nothing, but put the stream into another basis meanwhile."""
    mllm = tiny_mllm(layers=layers)
    stack = mllm.model.model.language_model.layers
    with torch.no_grad():
        for layer in stack[1:]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    turn = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)))[0]
    stack[0].register_forward_hook(lambda _module, _inputs, state: state @ turn)
    stack[-1].register_forward_hook(lambda _module, _inputs, state: state @ turn.T)
    return mllm


def test_a_planted_basis_is_learned_and_the_plain_lens_does_not_know_it():
    mllm = rotated()
    tuned = fit_translators(mllm, ITEMS, RESPONSES, steps=300, learning_rate=0.03)
    assert tuned.table["layer"].tolist() == [0, 1]
    # Items that were not fitted: the maps hold for them.
    assert (tuned.table["plain"] > 1).all()
    assert (tuned.table["tuned"] < 0.05 * tuned.table["plain"]).all()
    others = [problem(at) for at in range(30, 34)]
    given = (mllm, others, RESPONSES[:4])
    plain, read = lens_commitment(*given), lens_commitment(*given, translators=tuned)

    def wrong(found):
        log_p = found.table.pivot(
            index=["item", "step", "candidate"], columns="layer", values="log_p"
        )
        return (log_p[0] - log_p[2]).abs().mean(), (log_p[2] - log_p[2]).abs().max()

    assert wrong(read)[0] < 0.2 * wrong(plain)[0]
    last = [one.table[one.table["layer"] == 2]["log_p"].to_numpy() for one in (plain, read)]
    np.testing.assert_array_equal(*last), "the last layer is the model's own output"


def test_a_basis_that_is_not_turned_needs_no_map():
    mllm = tiny_mllm()
    with torch.no_grad():
        for layer in mllm.model.model.language_model.layers[1:]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    tuned = fit_translators(mllm, ITEMS[:6], RESPONSES[:6], steps=5)
    assert (tuned.table["plain"].abs() < 1e-5).all() and (tuned.table["tuned"] < 1e-2).all()


def rows_of(mllm, places):
    """Oracle: states of responses, and of forced answers by one pass for every row."""
    before, after = [], []
    stack = mllm.model.model.language_model
    for at in places:
        encoded = encode_problem(mllm, ITEMS[at], response=RESPONSES[at])
        tokens = candidate_tokens(mllm, COLORS)
        start = encoded.prompt_length
        texts = [(list(encoded.response_ids), range(start - 1, len(encoded.input_ids)))]
        heads = {tail[:depth] for tail in tokens.tails for depth in range(len(tail))}
        for end in encoded.layout.step_ends:
            for head in sorted(heads):
                forced = [*encoded.response_ids[: end - start], *tokens.shared, *head]
                texts.append((forced, [start + len(forced) - 1]))
        for ids, rows in texts:
            one = encode_problem(mllm, ITEMS[at], response=ids)
            seen = []
            hook = stack.layers[-1].register_forward_hook(lambda *_: seen.append(_[2].clone()))  # noqa: B023
            inputs = {"input_ids": one.input_ids[None], "mm_token_type_ids": one.token_types[None]}
            with torch.no_grad():
                found = mllm.model(**inputs, **one.vision, output_hidden_states=True)
            hook.remove()
            before.append(found.hidden_states[1][0, list(rows)])
            after.append(seen[0][0, list(rows)])
    return torch.cat(before), torch.cat(after)


def test_the_fit_equals_torch_s_linear_and_adam_on_the_same_rows(monkeypatch, random_mllm):
    from attcot_analysis.measures import translators as module

    monkeypatch.setattr(module, "_ROWS", 10**6)  # all rows in every step: no order of rows
    tuned = fit_translators(
        random_mllm, ITEMS[:3], RESPONSES[:3], layers=[0], steps=4, learning_rate=0.01
    )
    model = random_mllm.model
    norm, head = model.model.language_model.norm, model.lm_head
    before, after = rows_of(random_mllm, [1, 2])
    linear = torch.nn.Linear(64, 64)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(64))
        linear.bias.zero_()
    adam = torch.optim.Adam(linear.parameters(), lr=0.01)
    for at in range(4):
        adam.param_groups[0]["lr"] = 0.01 * (1 - at / 4)
        target = head(norm(after)).softmax(-1).detach()
        lens = head(norm(linear(before))).log_softmax(-1)
        loss = torch.nn.functional.kl_div(lens, target, reduction="batchmean")
        adam.zero_grad()
        loss.backward(inputs=list(linear.parameters()))
        adam.step()
    moved, shift = tuned.maps[0]
    # Adam's first steps are of signs: where a gradient is next to nothing its sign may differ.
    close = (moved - (linear.weight - torch.eye(64)).detach()).abs() < 1e-3
    assert close.float().mean() > 0.99 and moved.abs().max() > 0.01
    np.testing.assert_allclose(shift, linear.bias.detach(), atol=1e-3)
    held = rows_of(random_mllm, [0])
    target, lens = (head(norm(one)).log_softmax(-1).detach() for one in (held[1], held[0]))
    kl = (target.exp() * (target - lens)).sum(-1).mean()
    assert tuned.table["plain"][0] == pytest.approx(float(kl), rel=1e-3)
    assert tuned.table["n_rows"][0] == len(held[0])
    assert all(one.grad is None for one in model.parameters())


def test_a_layer_read_through_its_map_is_norm_and_head_of_the_mapped_state(random_mllm):
    draw = torch.Generator().manual_seed(1)
    pair = torch.randn(64, 64, generator=draw) / 8, torch.randn(64, generator=draw)
    given = Translators({0: pair}, None)
    hidden = torch.randn(3, 5, 64, generator=draw)
    by_hand = torch.stack([row @ (torch.eye(64) + pair[0]).T + pair[1] for row in hidden])
    torch.testing.assert_close(given(0, hidden), by_hand)
    found = lens_commitment(random_mllm, ITEMS[:2], RESPONSES[:2], layers=[0], translators=given)
    plain = lens_commitment(random_mllm, ITEMS[:2], RESPONSES[:2], layers=[0])
    assert (found.table["log_p"] - plain.table["log_p"]).abs().max() > 0.1
    nothing = Translators({0: (torch.zeros(64, 64), torch.zeros(64))}, None)
    same = lens_commitment(random_mllm, ITEMS[:2], RESPONSES[:2], layers=[0], translators=nothing)
    np.testing.assert_allclose(same.table["log_p"], plain.table["log_p"], atol=1e-6)


def test_what_was_saved_is_read_again_and_other_files_are_refused(tmp_path, random_mllm):
    tuned = fit_translators(random_mllm, ITEMS[:3], RESPONSES[:3], layers=[0, 1], steps=2)
    path = tuned.save(tmp_path / "lens.safetensors")
    again = Translators.load(path)
    for layer, pair in tuned.maps.items():
        assert all(torch.equal(*both) for both in zip(pair, again.maps[layer], strict=True))
    np.testing.assert_allclose(again.table, tuned.table)
    with pytest.raises(RunError, match="is already there"):
        tuned.save(path)
    (tmp_path / "odd").write_bytes(b"no tensors")
    misfit = {"0.A_minus_I": torch.zeros(64), "0.b": torch.zeros(64)}
    save_file(misfit, tmp_path / "misfit", {"table": "[]"})
    for odd in ("odd", "nowhere", "misfit"):
        with pytest.raises(MeasureError, match="holds no translators"):
            Translators.load(tmp_path / odd)
    with pytest.raises(MeasureError, match="no translator for layer 1, only for \\[0\\]"):
        lens_commitment(
            random_mllm, ITEMS[:1], RESPONSES[:1], translators=Translators({0: tuned.maps[0]}, None)
        )
    with pytest.raises(MeasureError, match="of 64 numbers"):
        tuned(0, torch.zeros(1, 32))


def test_bad_input_is_one_sentence(random_mllm):
    with pytest.raises(MeasureError, match="at least two"):
        fit_translators(random_mllm, ITEMS[:1], RESPONSES[:1])
    for rate in (0.0, "fast", float("nan")):
        with pytest.raises(MeasureError, match="give a rate above 0"):
            fit_translators(random_mllm, ITEMS[:2], RESPONSES[:2], learning_rate=rate)
    with pytest.raises(MeasureError, match=r"translators is 'lens.safetensors'; give what"):
        lens_commitment(random_mllm, ITEMS[:1], RESPONSES[:1], translators="lens.safetensors")
    with pytest.raises(MeasureError, match="max_steps is 'two'; give a whole number"):
        lens_commitment(random_mllm, ITEMS[:1], RESPONSES[:1], max_steps="two")
    with pytest.raises(MeasureError, match="steps is 0"):
        fit_translators(random_mllm, ITEMS[:2], RESPONSES[:2], steps=0)
    broken = copy.deepcopy(random_mllm)
    with torch.no_grad():
        broken.model.model.language_model.layers[-1].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(MeasureError, match=f"Item {ITEMS[0].id}: .* not finite"):
        fit_translators(broken, ITEMS[:2], RESPONSES[:2], steps=1)


def test_the_fit_needs_no_gradients_around_it(random_mllm):
    asked = {"layers": [0], "steps": 2}
    plain = fit_translators(random_mllm, ITEMS[:2], RESPONSES[:2], **asked)
    with torch.no_grad():
        found = fit_translators(random_mllm, ITEMS[:2], RESPONSES[:2], **asked)
    assert torch.equal(found.maps[0][0], plain.maps[0][0])
