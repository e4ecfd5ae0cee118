"""`check_model`: silent on sound models, loud on planted defects, each in its own place."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from families import (
    FAMILY_NAMES,
    INDEXED,
    LATENT,
    MORE_FAMILIES,
    llava_over,
    save_tiny_family,
    shared_family,
)
from real import CHECKPOINTS
from tiny import merging_tokenizer, tiny_mllm
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from attcot_analysis.attention import hook as attention
from attcot_analysis.attention import packing
from attcot_analysis.attention.candidates import candidate_tokens
from attcot_analysis.attention.hook import NAME, intervening
from attcot_analysis.attention.kinds import layer_kinds
from attcot_analysis.attention.knockout import Knockout
from attcot_analysis.cli import main
from attcot_analysis.errors import MeasureError
from attcot_analysis.measures import check as checks_attention
from attcot_analysis.measures import check as checks_inputs
from attcot_analysis.measures.check import (
    CHECKS,
    MEASUREMENTS,
    Check,
    ModelCheck,
    check_model,
    held_exactly,
)
from attcot_analysis.models import FAMILIES, Span, TokenGrid, layout
from attcot_analysis.shipped import TESTBED_MODEL, shipped

PAINTED, GRID = "painted box moves its token", "image tokens = grid"
LAST = "nothing left on the model"
CANDIDATE = "candidate = its whole text"


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    """Fewer pictures than a user would have: tests are to be quick."""
    monkeypatch.setattr(checks_inputs, "N_SIZES", 4)
    monkeypatch.setattr(checks_inputs, "PAINTED_SIZES", ((160, 110),))
    monkeypatch.setattr(checks_inputs, "PAINTED_TOKENS", 4)


def failed(mllm):
    """Names of the checks that fail."""
    return {found.name for found in check_model(mllm).checks if found.ok is False}


def with_grids(mllm, change):
    """The same model with grids changed by a function."""

    def grids(prompt):
        return tuple(change(grid) for grid in mllm.family.grids(prompt))

    return replace(mllm, family=replace(mllm.family, grids=grids))


def test_a_sound_model_passes(random_mllm):
    lines = []
    found = check_model(random_mllm, report=lines.append)
    assert found.holds, str(found)
    assert [c.name for c in found.checks] == ["loads", *CHECKS, LAST]
    assert {verdict for verdict, _ in found.measurements.values()} == {"can"}
    assert tuple(lines) == found.checks
    assert str(found).splitlines()[-1] == found.verdict == "tiny: all 16 checks hold."


@pytest.mark.parametrize("name", [n for n in FAMILY_NAMES + MORE_FAMILIES if n != "qwen2_5_vl"])
def test_every_family_passes(name):
    found = check_model(shared_family(name))
    assert found.holds, str(found)
    cannot = {name for name, (verdict, _) in found.measurements.items() if verdict == "cannot"}
    state = {
        "qwen3_5": "linear_attention",
        "qwen3_5_moe": "linear_attention",
        "minicpmv4_6": "linear_attention",
        "lfm2_vl": "conv",
    }
    assert cannot == ({"knockout", "relevance", "lens"} if name in state else set())
    if cannot:
        assert found.verdict.endswith("cannot be measured on it: knockout, relevance, lens.")
        assert f"2 of its 3 layers ({state[name]})" in found.measurements["knockout"][1]


FORCED = {"commitment", "dependence", "knockout", "lens"}


@pytest.mark.parametrize(
    ("text", "cannot"),
    [
        (LATENT, set()),
        (INDEXED, FORCED),
        (
            {"model_type": "llama4_text", "no_rope_layers": [1, 1, 0], "intermediate_size_mlp": 96},
            FORCED,
        ),
    ],
    ids=["latent", "indexed", "chunked"],
)
def test_kinds_of_attention_that_no_family_has_are_read_or_refused(text, cannot):
    mllm = llava_over(**text)
    found = check_model(mllm)
    assert found.holds, str(found)
    assert {name for name, (can, _) in found.measurements.items() if can == "cannot"} == cannot
    kinds = {*layer_kinds(mllm)} - {"full_attention"}
    assert len(kinds) == (cannot != set()) and all(
        found.measurements[name][1].startswith(f"The model has {kind} layers")
        for kind in kinds
        for name in cannot
    )


def test_every_model_type_and_every_published_checkpoint_has_its_row():
    checked = {
        path.stem for path in (Path(__file__).parents[2] / "docs/checkpoints").glob("*.json")
    }
    assert checked == {*FAMILY_NAMES, *MORE_FAMILIES, *(f"{one}_published" for one in CHECKPOINTS)}
    types = {one for family in FAMILIES for one in family.model_types if "my_" not in one}
    assert types <= checked


def test_a_saved_checkpoint_of_another_family_passes_from_the_command_line(tmp_path, capsys):
    folder = save_tiny_family("internvl", tmp_path / "checkpoint")
    assert main(["check-model", str(folder), "--device", "cpu"]) == 0
    assert "family internvl" in capsys.readouterr().out


@pytest.mark.golden
def test_the_shipped_model_passes_from_the_command_line(capsys):
    assert main(["check-model", str(shipped(TESTBED_MODEL))]) == 0
    *lines, verdict = capsys.readouterr().out.splitlines()
    checks, measurements = lines[: len(CHECKS) + 2], lines[len(CHECKS) + 2 :]
    assert all(line.startswith("ok ") for line in checks)
    assert measurements == [f"can       {name}" for name in MEASUREMENTS]
    assert "all 16 checks hold" in verdict


def test_what_does_not_load_is_a_verdict(tmp_path, capsys):
    assert main(["check-model", str(tmp_path)]) == 3
    line, *measurements, verdict = capsys.readouterr().out.splitlines()
    assert measurements[0].startswith("not tried answers: prompt was not checked")
    assert len(measurements) == len(MEASUREMENTS)
    assert line.startswith("FAILED  loads") and "config.json" in line
    assert "1 of 1 checks failed (loads)" in verdict


def test_all_of_it_as_json(random_mllm, monkeypatch, capsys):
    monkeypatch.setattr(checks_inputs, "load_mllm", lambda *_, **__: random_mllm)
    monkeypatch.setattr(checks_inputs, "CHECKS", {"prompt": CHECKS["prompt"]})
    assert main(["check-model", "any", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["holds"] and record["family"] == "qwen2_5_vl" and record["exact"]
    assert record["layers"] == {"full_attention": 3}
    assert record["versions"]["transformers"] == transformers.__version__
    assert [one["name"] for one in record["checks"]] == ["loads", "prompt", LAST]
    assert record["measurements"]["lens"]["verdict"] == "not tried"


def test_tolerances_follow_the_coarsest_weights():
    """Not the first weight: quantised models keep their embeddings in full."""
    layers = torch.nn.ModuleList([torch.nn.Embedding(4, 4), torch.nn.Linear(4, 4)])
    assert held_exactly(layers)
    layers[1].bfloat16()
    assert not held_exactly(layers)
    in_bits = torch.nn.Parameter(torch.zeros(4, dtype=torch.uint8), requires_grad=False)
    layers[1] = torch.nn.ParameterList([in_bits])
    assert not held_exactly(layers)
    layers[1] = torch.nn.Linear(4, 4)
    assert held_exactly(layers)
    layers.is_quantized = True
    assert not held_exactly(layers)


def test_a_check_that_raises_has_failed(random_mllm, monkeypatch):
    def broken(mllm):
        raise KeyError("strange")

    monkeypatch.setitem(CHECKS, "prompt", broken)
    found = check_model(random_mllm)
    assert [c for c in found.checks if not c.ok] == [Check("prompt", False, "KeyError: 'strange'")]
    assert not found.holds and "1 of 16 checks failed (prompt)" in found.verdict


# --- Planted defects ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def merging():
    """A model whose tokenizer joins tags and answers."""
    return tiny_mllm(tokenizer=merging_tokenizer())


def test_a_tokenizer_that_joins_tags_and_answers_passes(merging):
    found = {check.name: check for check in check_model(merging).checks}
    assert all(check.ok for check in found.values())
    assert "'A' in '>A'; 'No' in '>No'" in found["steps and answer found"].detail
    assert "4 of them joined with the tag" in found[CANDIDATE].detail


@pytest.mark.parametrize("lead", [" ", "\n"])
def test_answers_that_a_model_puts_behind_white_space_are_named(merging, lead):
    """Planted: the model writes the tokens of the led answer wherever it is asked."""
    led = list(candidate_tokens(merging, ("Monday", f"{lead}Monday")).tails[1])

    def favour(module, args, output):
        output.logits[..., led] += 40.0
        return output

    hook = merging.model.register_forward_hook(favour)
    try:
        found = CHECKS[CANDIDATE](merging)
    finally:
        hook.remove()
    name = {" ": "a space", "\n": "a line end"}[lead]
    assert f"with {name} before it more probable: " in found
    said = found.split(f"with {name} before it more probable: ")[1].split(";")[0]
    assert "'Monday'" in said
    closed = replace(
        merging, format=merging.format.model_copy(update={"cue": f"{merging.format.cue}{lead}"})
    )
    assert f"with {name} before it" not in CHECKS[CANDIDATE](closed)


def test_candidates_scored_only_as_far_as_their_tokens_differ(merging, random_mllm, monkeypatch):
    """Without the end of the closing tag."""

    def shortest(mllm, candidates, *more):
        tokens = candidate_tokens(mllm, candidates, *more)
        return replace(tokens, tails=tuple(tail[:-2] for tail in tokens.tails))

    monkeypatch.setattr(checks_attention, "CANDIDATES", (("Yes", "No"),))
    monkeypatch.setattr(checks_attention, "candidate_tokens", shortest)
    with pytest.raises(MeasureError, match="off that of its text"):
        CHECKS[CANDIDATE](merging)


def test_spans_by_where_a_token_begins(merging, monkeypatch):
    """``>A`` begins in the tag, so the answer's span would be empty."""

    def begun(self, start, stop):
        first, last = (int(at) for at in np.searchsorted(self.starts, (start, stop)))
        return Span(self.first + first, self.first + max(first, last))

    monkeypatch.setattr(layout._TextSpans, "overlapping", begun)
    with pytest.raises(MeasureError, match="Looking for the answer of a response finds"):
        CHECKS["steps and answer found"](merging)


def transposed(grid):
    return TokenGrid.regular(grid.image_size, *reversed(grid.shape))


def shifted(grid):
    return replace(grid, boxes=np.roll(grid.boxes, 1, axis=0))


def in_other_pixels(grid):
    """Boxes of a resized picture instead of the original's."""
    return replace(grid, boxes=grid.boxes * 0.75, shape=None)


def empty(grid):
    return replace(grid, boxes=grid.boxes[:, [0, 1, 0, 1]])


def one_row_short(grid):
    rows, cols = grid.shape
    return TokenGrid.regular(grid.image_size, rows - 1, cols)


@pytest.mark.parametrize("change", [transposed, shifted, in_other_pixels])
def test_boxes_in_the_wrong_place(random_mllm, change):
    assert failed(with_grids(random_mllm, change)) == {PAINTED}


@pytest.mark.parametrize("change", [empty, one_row_short])
def test_a_wrong_number_of_boxes_or_empty_ones(random_mllm, change):
    assert GRID in failed(with_grids(random_mllm, change))


@pytest.mark.parametrize("name", [n for n in FAMILY_NAMES if n != "qwen2_5_vl"])
def test_shifted_boxes_are_seen_in_every_family(name):
    mllm = with_grids(shared_family(name), shifted)
    with pytest.raises(MeasureError, match="the map from image tokens to pixels is wrong"):
        CHECKS[PAINTED](mllm)


def test_a_vision_tower_that_shuffles_its_tokens():
    mllm = tiny_mllm()

    def shuffle(module, given, output):
        features = output.pooler_output
        pairs = features[: len(features) // 2 * 2].unflatten(0, (-1, 2))
        pairs.copy_(pairs.flip(1))

    mllm.model.model.visual.register_forward_hook(shuffle)
    assert failed(mllm) == {PAINTED}


def test_a_name_without_a_mask_function(random_mllm, monkeypatch):
    mapping = dict(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping)
    mapping.pop(NAME)
    monkeypatch.setattr(type(ALL_MASK_ATTENTION_FUNCTIONS), "_global_mapping", mapping)
    assert {"rows sum to 1", "probe = eager"} <= failed(random_mllm)


def test_masses_that_are_a_little_off(random_mllm, monkeypatch):
    def off(*arguments, **options):
        masses = read(*arguments, **options)
        return {layer: mass * 1.001 for layer, mass in masses.items()}

    read = checks_attention.read_masses
    monkeypatch.setattr(checks_attention, "read_masses", off)
    assert failed(random_mllm) == {"rows sum to 1", "probe = eager"}


def test_wrong_positions(random_mllm):
    def counted(model, batch):
        length = batch["input_ids"].shape[1]
        return torch.arange(length).expand(3, len(batch["input_ids"]), -1)

    family = replace(random_mllm.family, positions=counted)
    assert failed(replace(random_mllm, family=family)) == {"batched = single", CANDIDATE}


def test_branches_that_see_each_other(random_mllm, monkeypatch):
    rows = packing.BranchTokens.rows

    def every(self, length, window):
        found = rows(self, length, window)
        later = torch.ones_like(self.sees).tril() & (self.ends > 0)[..., None]
        return torch.cat([found[..., :length], later], dim=-1)

    monkeypatch.setattr(packing.BranchTokens, "rows", every)
    assert "packed = one by one" in failed(random_mllm)


def test_a_format_that_is_not_read_as_it_is_written(random_mllm, monkeypatch):
    def read(mllm, response):
        return replace(parse(mllm, response), answer="another")

    parse = type(random_mllm).parse
    monkeypatch.setattr(type(random_mllm), "parse", read)
    assert failed(random_mllm) == {"format round trip"}


def test_a_head_that_does_more_than_the_lens_knows(random_mllm):
    def doubled(module, args, output):
        output.logits *= 2.0
        return output

    mllm = tiny_mllm()
    hook = mllm.model.register_forward_hook(doubled)
    try:
        with pytest.raises(MeasureError, match="do not turn its last hidden states"):
            CHECKS["lens = output"](mllm)
    finally:
        hook.remove()


class Blindfold:
    """Every row is always kept from the image, so there is nothing to knock out."""

    def __init__(self, image_token_id, model):
        self.image_token_id = image_token_id
        model.register_forward_pre_hook(self.look, with_kwargs=True)

    def look(self, module, given, options):
        self.image = options["input_ids"] == self.image_token_id

    def edit(self, call):
        if call.query.shape[2] != self.image.shape[1]:
            return call
        return Knockout(torch.ones_like(self.image), self.image).edit(call)


def test_a_model_that_does_not_look():
    mllm = tiny_mllm()
    with intervening(Blindfold(mllm.image_token_id, mllm.model)):
        assert "knockout moves logits" in failed(mllm)


def test_generation_from_something_else(monkeypatch):
    mllm = tiny_mllm()
    prepare = mllm.model.prepare_inputs_for_generation

    def without_pixels(*arguments, **options):
        found = prepare(*arguments, **options)
        return {**found, "pixel_values": None, "image_grid_thw": None}

    monkeypatch.setattr(mllm.model, "prepare_inputs_for_generation", without_pixels)
    assert failed(mllm) == {"generation = teacher forcing"}


def test_an_attention_that_is_not_put_back(monkeypatch):
    @contextlib.contextmanager
    def attached(model):
        model.set_attn_implementation({"text_config": NAME})
        yield

    for module in (checks_attention, attention):
        monkeypatch.setattr(module, "attached", attached)
    assert failed(tiny_mllm()) == {LAST}


def test_a_hook_that_stays(monkeypatch):
    def leaving(mllm):
        mllm.model.register_forward_hook(lambda *_: None)
        return "done"

    monkeypatch.setitem(CHECKS, "prompt", leaving)
    mllm = tiny_mllm()
    (found,) = [c for c in check_model(mllm).checks if not c.ok]
    assert found.name == LAST and "hooks are not restored after measurements" in found.detail


def test_a_template_that_drops_the_question(monkeypatch):
    mllm = tiny_mllm()
    template = mllm.processor.chat_template.replace("{{ part['text'] }}", "")
    monkeypatch.setattr(mllm.processor, "chat_template", template)
    assert "prompt" in failed(mllm)


def test_spans_that_are_a_token_off(random_mllm, monkeypatch):
    starts = layout.token_starts

    def late(tokenizer, ids):
        text, found = starts(tokenizer, ids)
        return text, np.concatenate([found[1:], found[-1:] + 1])

    monkeypatch.setattr(layout, "token_starts", late)
    assert failed(random_mllm) == {"steps and answer found"}


def test_sizes_cover_aspect_ratios():
    sizes = checks_inputs.random_sizes(200)
    ratios = [width / height for width, height in sizes]
    assert min(ratios) < 0.25 and max(ratios) > 4 and len(set(sizes)) == 200
    assert ModelCheck("m", ()).holds
