"""The terms on a model: sink-free mass, bf16, and the assertions of every step."""

import contextlib
import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from families import shared_family
from tiny import tiny_mllm

from attcot_analysis.attention.hook import attached
from attcot_analysis.attention.sinks import SinkRule
from attcot_analysis.errors import AttCoTError, TrainingError
from attcot_analysis.measures.access import visual_access
from attcot_analysis.measures.commitment import commitment
from attcot_analysis.models import load_mllm
from attcot_analysis.problems import render_response
from attcot_analysis.train import AttCoTConfig, AttCoTTerms, RationaleDataset
from attcot_analysis.train import terms as module
from attcot_analysis.train.data import collate_examples
from attcot_analysis.train.terms import NOTES, visual_target
from attcot_analysis.train.trainer import Notes

BOTH = AttCoTConfig(lambda_vis=0.5, lambda_commit=1.0, vis_target=0.9)
SINK_FREE = AttCoTConfig(lambda_vis=1.0, vis_target=0.9, vis_layers=(1, 2), vis_region="sink_free")
LAYER, DIM = 1, 5


@pytest.fixture(scope="module")
def mllm():
    return tiny_mllm()


def inputs_of(mllm, problems):
    data = RationaleDataset(mllm, problems)
    batch = collate_examples(mllm, [data[at] for at in range(len(data))])
    return batch, batch.pop("attcot")


def run(mllm, problems, config):
    """One forward pass with the terms; the model is left in training mode."""
    batch, examples = inputs_of(mllm, problems)
    terms = AttCoTTerms(mllm, config)
    mllm.model.train()
    with attached(mllm.model):
        prepared = terms.prepare(batch, examples)
        with terms.running(prepared):
            output = mllm.model(**prepared.inputs)
        return terms, prepared, output


@contextlib.contextmanager
def massive(mllm, positions):
    """Give tokens of every item a massive activation where layer 1 takes them in."""

    def plant(_module, args, kwargs):
        hidden = (args[0] if args else kwargs["hidden_states"]).clone()
        hidden[:, positions, DIM] = 1000.0
        return ((hidden, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": hidden})

    layer = mllm.model.get_decoder().layers[LAYER]
    hook = layer.register_forward_pre_hook(plant, with_kwargs=True, prepend=True)
    try:
        yield
    finally:
        hook.remove()


@pytest.fixture(scope="module")
def planted(mllm, training_problems):
    """Positions of two image tokens and of one of the text."""
    _, examples = inputs_of(mllm, training_problems[:1])
    image = examples[0].encoded.layout.image
    return [0, int(image[3]), int(image[20])]


@pytest.mark.parametrize("lambda_commit", [0.0, 1.0])
def test_sink_free_mass_is_the_one_that_is_measured(
    mllm, training_problems, planted, lambda_commit
):
    problems = training_problems[:2]
    config = replace(SINK_FREE, lambda_commit=lambda_commit)
    with massive(mllm, planted):
        terms, batch, _ = run(mllm, problems, config)
        with torch.no_grad():
            notes = terms.loss(batch)[1]
        mllm.model.eval()
        table = visual_access(
            mllm,
            problems,
            [render_response(problem.steps, problem.answer) for problem in problems],
            layers=config.vis_layers,
            sinks=SinkRule(),
            batch_size=2,
        ).table
    found = [layer for layer, tokens in batch.sinks.tokens.items() if tokens.any()]
    assert found == [1, 2] and batch.sinks.tokens[1][:, planted].all()
    assert (table["sink_free_mass"] < table["mass"]).any()
    expected = np.average(table["sink_free_mass"], weights=table["rows"])
    assert float(notes["visual_mass"]) == pytest.approx(expected, rel=1e-4)


def test_without_sinks_sink_free_is_the_whole_image(mllm, training_problems):
    values = []
    for region in ("image", "sink_free"):
        config = AttCoTConfig(lambda_vis=1.0, vis_target=0.9, vis_region=region)
        terms, batch, _ = run(mllm, training_problems[:2], config)
        values.append(terms.loss(batch)[0])
    assert torch.equal(*values)


@pytest.mark.parametrize("form", ["hinge", "log"])
def test_the_gradient_of_sink_free_access_is_that_of_finite_differences(
    mllm, training_problems, planted, form
):
    config = replace(SINK_FREE, vis_form=form)
    weight = mllm.model.get_decoder().layers[1].self_attn.q_proj.weight

    def loss():
        terms, batch, _ = run(mllm, training_problems[:2], config)
        return terms.loss(batch)[0]

    with massive(mllm, planted):
        mllm.model.zero_grad()
        loss().backward()
        slope = float(weight.grad.norm())
        direction = weight.grad / slope
        values = []
        for step in (0.2, -0.2):
            with torch.no_grad():
                weight += step * direction
                values.append(float(loss()))
                weight -= step * direction
    assert slope > 1e-4
    assert (values[0] - values[1]) / 0.4 == pytest.approx(slope, rel=0.02)
    mllm.model.zero_grad()


def test_sinks_have_no_gradient(mllm, training_problems, planted):
    with massive(mllm, planted):
        _, batch, _ = run(mllm, training_problems[:1], SINK_FREE)
    assert not any(strength.requires_grad for strength in batch.sinks.strength.values())


def test_autocast_does_not_touch_the_terms_arithmetic(mllm, training_problems):
    terms, batch, _ = run(mllm, training_problems[:2], BOTH)
    plain, notes = terms.loss(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast, _ = terms.loss(batch)
    assert torch.equal(plain, cast)
    assert set(notes) == set(NOTES)
    assert all(value.dtype == torch.float32 for value in notes.values())


@pytest.mark.parametrize("way", ["autocast", "weights"])
def test_bf16_gives_the_terms_of_fp32(random_checkpoint, training_problems, way):
    full = load_mllm(random_checkpoint, dtype=torch.float32)
    terms, batch, _ = run(full, training_problems[:4], BOTH)
    expected, expected_notes = terms.loss(batch)
    expected.backward()
    dtype = torch.bfloat16 if way == "weights" else torch.float32
    half = load_mllm(random_checkpoint, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=way == "autocast"):
        terms, batch, _ = run(half, training_problems[:4], BOTH)
        found, notes = terms.loss(batch)
    found.backward()
    assert found.dtype == torch.float32
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=0.02)
    for name in ("visual_mass", "loss_vis", "loss_commit"):
        assert float(notes[name]) == pytest.approx(float(expected_notes[name]), abs=0.02)
    name = "model.language_model.layers.0.self_attn.k_proj.weight"
    one, other = (dict(m.model.named_parameters())[name].grad.float() for m in (full, half))
    # Processors without instructions for bf16 also add in it: 0.988 there, 0.993 elsewhere.
    assert torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.97


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_leaves_nothing_behind(training_problems, checkpointing):
    """No cycle keeps a step's graph alive until Python looks for cycles: memory would pile up."""
    mllm = tiny_mllm()
    if checkpointing:
        mllm.model.gradient_checkpointing_enable({"use_reentrant": False})

    def hooks():
        return [(*m._forward_hooks, *m._forward_pre_hooks) for m in mllm.model.modules()]

    before = hooks()
    gc.collect()
    gc.disable()
    try:
        config = replace(BOTH, vis_region="sink_free")
        terms, batch, output = run(mllm, training_problems[:2], config)
        with attached(mllm.model):
            (terms.loss(batch)[0] + output.logits.sum()).backward()
        kept = [weakref.ref(one) for one in (batch, batch.probe, batch.sinks)]
        del batch, output
        assert [ref() for ref in kept] == [None] * 3
    finally:
        gc.enable()
    assert hooks() == before


def test_reentrant_checkpointing_behind_our_back_is_noticed_at_the_first_step(training_problems):
    mllm = tiny_mllm()
    mllm.model.gradient_checkpointing_enable({"use_reentrant": True})
    mllm.model.enable_input_require_grads()
    terms, batch, _ = run(mllm, training_problems[:2], BOTH)
    with pytest.raises(AttCoTError, match="no gradient"):
        terms.loss(batch)


def test_forced_answers_without_a_gradient_are_noticed(training_problems):
    mllm = tiny_mllm()
    mllm.model.base_model.requires_grad_(False)
    config = AttCoTConfig(lambda_commit=1.0)
    terms, batch, _ = run(mllm, training_problems[:2], config)
    with pytest.raises(TrainingError, match="forced answers carry no gradient"):
        terms.loss(batch)


@pytest.mark.parametrize(
    ("broken", "name"), [("visual_mass", "loss_vis"), ("commitment_loss", "loss_commit")]
)
def test_a_term_that_is_not_finite_is_noticed(mllm, training_problems, monkeypatch, broken, name):
    own = getattr(module, broken)
    monkeypatch.setattr(module, broken, lambda *given: own(*given) * torch.nan)
    terms, batch, _ = run(mllm, training_problems[:2], BOTH)
    with pytest.raises(TrainingError, match=f"{name} is nan"):
        terms.loss(batch)


def test_a_process_that_saw_nothing_to_count_logs_with_the_others():
    """All processes must reduce the same values, or they would wait for each other for ever."""

    class Two:
        """This process and one that saw ``loss_vis`` = 3 once."""

        device = torch.device("cpu")

        def reduce(self, values, reduction):
            assert reduction == "sum" and values.shape == (2, len(NOTES))
            other = torch.zeros_like(values)
            other[:, NOTES.index("loss_vis")] = torch.tensor([3.0, 1.0])
            return values + other

    notes = Notes(BOTH)
    assert notes.means(Two(), {"loss": 1.0}) == {"loss_vis": 3.0}
    notes.add({"loss_vis": torch.tensor(1.0)}, training=True)
    notes.add({"loss_vis": torch.tensor(5.0)}, training=False)
    assert notes.means(Two(), {"loss": 1.0}) == {"loss_vis": 2.0}
    assert notes.means(Two(), {"eval_loss": 1.0}) == {"eval_loss_vis": 4.0}
    assert Notes(AttCoTConfig()).means(None, {"loss": 1.0}) == {}


def test_evidence_that_no_item_has_is_noticed(mllm, training_problems):
    config = AttCoTConfig(lambda_vis=1.0, vis_region="evidence")
    batch, examples = inputs_of(mllm, training_problems[:8])
    bare = [replace(one, evidence=(None,) * len(one.evidence)) for one in examples]
    terms = AttCoTTerms(mllm, config)
    for _ in range(3):
        assert terms.prepare(batch, bare).probe is None
    assert terms.prepare(batch, examples).probe is not None
    for _ in range(3):
        terms.prepare(batch, bare)
    with pytest.raises(TrainingError, match="None of the last 32 items has evidence boxes"):
        terms.prepare(batch, bare)


@pytest.mark.parametrize(
    ("family", "layer", "region"),
    [("qwen2_5_vl", 1, "image"), ("qwen2_5_vl", 1, "evidence"), ("gemma4", 2, "image")],
)
def test_the_target_is_a_quantile_of_what_right_items_have(
    family, layer, region, training_problems
):
    problems, mllm = list(training_problems), shared_family(family)
    config = AttCoTConfig(vis_region=region, vis_layers=(layer,))
    responses = [render_response(problem.steps, problem.answer) for problem in problems]
    access = visual_access(mllm, problems, responses, layers=[layer]).table
    column = "mass" if region == "image" else "evidence_mass"
    answers = commitment(mllm, problems, responses, controls=["rationale"]).table
    last = answers[answers["step"] == answers["n_steps"]]
    given = last.loc[last.groupby("item")["p"].idxmax()].set_index("item")["candidate"]
    right = [problem.id for problem in problems if given[problem.id] == problem.answer]
    assert 0 < len(right) < len(problems)
    means = [
        np.average(own[column], weights=own["rows"])
        for item, own in access.groupby("item")
        if item in right
    ]
    for quantile in (0.0, 0.75):
        found = visual_target(mllm, problems, config, quantile=quantile, batch_size=5)
        assert found == pytest.approx(np.quantile(means, quantile), rel=1e-4)


def test_a_target_needs_an_item_that_is_answered_right(mllm, training_problems):
    problem = replace(training_problems[0], twin=None, control=None)
    response = render_response(problem.steps, problem.answer)
    table = commitment(mllm, [problem], [response], controls=["rationale"]).table
    last = table[table["step"] == table["n_steps"]]
    least = last.loc[last["p"].idxmin(), "candidate"]
    with pytest.raises(TrainingError, match="none with rows that count is answered right"):
        visual_target(mllm, [replace(problem, answer=least)])
