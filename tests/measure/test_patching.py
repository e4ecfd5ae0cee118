"""Patching: equal to one plain hooked pass per patch, and it finds a planted circuit."""

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from families import FAMILY_NAMES, shared_family
from PIL import Image
from tiny import noise_image, tiny_mllm

from attcot_analysis.attention.candidates import candidate_tokens
from attcot_analysis.errors import MeasureError
from attcot_analysis.measures import patched
from attcot_analysis.measures.commitment import commitment
from attcot_analysis.measures.compare import item_values
from attcot_analysis.measures.patches import PARTS, Patching, patching, patching_search
from attcot_analysis.models import collate, encode_problem
from attcot_analysis.models.load import text_stack
from attcot_analysis.problems import Edit, Problem, Step, render_response

ANSWERS = ("green", "yellow", "white")
STEPS = (Step("Go right."), Step("Cell b1 holds a red circle."))
BOX = (16.0, 0.0, 48.0, 32.0)


def pasted(image, seed):
    """The picture with other noise in the box."""
    found = image.copy()
    found.paste(noise_image(32, 32, seed), (16, 0))
    return found


def problem(name, seed, size=(64, 48), answers=("green", "yellow"), control=True):
    image = noise_image(*size, seed)
    near = Image.fromarray(np.clip(np.asarray(image).astype(int) + 1, 0, 255).astype(np.uint8))
    edits = {"twin": Edit("twin", pasted(image, seed + 50), answers[1], STEPS, (BOX,))}
    if control:
        edits["control"] = Edit("control", near, answers[0], STEPS, ())
    return Problem(name, image, "What color?", ANSWERS, answers[0], STEPS, **edits)


ITEMS = [problem("b", 1), problem("a", 2, (48, 64), control=False)]
RESPONSES = [render_response(STEPS, "green"), render_response(STEPS[:1], "white")]


class Slow:
    """Oracle: log-odds after the last step by plain hooks, a whole pass per candidate and patch."""

    def __init__(self, mllm, one, response, site, layers, head):
        self.mllm, self.site, self.layers = mllm, site, layers
        self.width = slice(None) if head is None else slice(16 * head, 16 * head + 16)
        self.own = encode_problem(mllm, one, response=response)
        tokens = candidate_tokens(mllm, ANSWERS)
        end = self.own.layout.step_ends[-1]
        prefix = self.own.response_ids[: end - self.own.prompt_length]
        self.tails, self.runs = tokens.tails[:2], []
        for tail in self.tails:
            ids = [*prefix, *tokens.shared, *tail]
            run, kept = [], {}
            for picture in (one.image, one.twin.image):
                item = encode_problem(mllm, one, response=ids, image=picture)
                run.append(collate(mllm, [item]))
            self.hooked(
                run[1], lambda layer, value, kept=kept: kept.setdefault(layer, value.clone())
            )
            self.runs.append((run[0], kept))

    def hooked(self, batch, hook):
        with ExitStack() as hooks, torch.no_grad():
            for layer in self.layers:
                block = text_stack(self.mllm).layers[layer]
                if self.site in (
                    "attention",
                    "head",
                ):  # what comes into o_proj is the heads' output
                    one = block.self_attn.o_proj.register_forward_pre_hook(
                        lambda _module, given, layer=layer: (hook(layer, given[0]),)
                    )
                else:
                    module = block if self.site == "residual" else block.mlp
                    one = module.register_forward_hook(
                        lambda _module, _given, out, layer=layer: hook(layer, out)
                    )
                hooks.callback(one.remove)
            return self.mllm.model(**batch, use_cache=False).logits[0]

    def log_odds(self, group=None):
        log_p = []
        for tail, (batch, kept) in zip(self.tails, self.runs, strict=True):
            ids = batch["input_ids"][0]

            def replaced(layer, value, kept=kept):
                chosen = torch.zeros(value.shape, dtype=torch.bool)
                if group is not None:
                    chosen[:, list(rows_of(group, self.own, value.shape[1])), self.width] = True
                return torch.where(chosen, kept[layer], value)

            scores = self.hooked(batch, replaced).log_softmax(-1)
            at = range(len(ids) - len(tail), len(ids))
            log_p.append(sum(float(scores[t - 1, ids[t]]) for t in at))
        return log_p[1] - log_p[0]


def rows_of(group, own, n):
    """The positions of a group by the layout alone; of the answer's rows to the end."""
    layout, end = own.layout, own.layout.step_ends[-1]
    on = layout.grids[0].coverage([BOX]) > 0
    return {
        "evidence": layout.image[on],
        "image_rest": layout.image[~on],
        "question": layout.question,
        "rationale": range(own.prompt_length, end),
        "answer": range(end, n),
    }[group]


@pytest.fixture(scope="module")
def double():
    mllm = tiny_mllm()
    mllm.model.double()
    return mllm


@pytest.mark.parametrize(
    ("site", "window", "head"),
    [
        ("residual", (1, 2), None),
        ("attention", (1, 1), None),
        ("mlp", (0, 1), None),
        ("head", (2, 2), 3),
    ],
)
def test_every_patch_equals_a_plain_pass_with_hooks(double, site, window, head):
    heads = None if head is None else [(window[0], head)]
    found = patching(double, ITEMS, RESPONSES, sites=(site,), windows=[window], heads=heads).table
    assert tuple(found.columns) == Patching.columns
    layers, moved = range(window[0], window[1] + 1), 0.0
    for one, response, n_steps in zip(ITEMS, RESPONSES, (2, 1), strict=True):
        part = found[(found["item"] == one.id) & (found["source"] == "edit")]
        assert len(part) == len(PARTS) * (n_steps + 1)
        oracle = Slow(double, one, response, site, layers, head)
        none = oracle.log_odds()
        for row in part[part["k"] == n_steps].itertuples():
            assert row.log_odds_before == pytest.approx(none, abs=1e-5)
            assert row.recovered == pytest.approx(oracle.log_odds(row.group) - none, abs=1e-5)
            moved = max(moved, abs(row.recovered))
    assert moved > 0.05
    assert set(found.loc[found["source"] == "control", "item"]) == {"b"}


@pytest.mark.parametrize("name", [*FAMILY_NAMES, "gemma4"])
def test_all_tokens_behind_the_last_layer_or_all_its_parts_recover_everything(name):
    """In every family; the runs themselves are those of `commitment`."""
    mllm = shared_family(name)
    options = {"groups": ("all",), "windows": [(2, 2), (0, 2)], "control": None}
    result = patching(mllm, ITEMS, RESPONSES, **options)
    table = result.table
    gap = table["log_odds_source"] - table["log_odds_before"]
    assert gap.abs().max() > 1e-3
    np.testing.assert_allclose(table["recovered"], gap, atol=1e-4)
    own = commitment(mllm, ITEMS, RESPONSES, controls=["rationale"]).table
    wide = own.pivot(index=["item", "step"], columns="candidate", values="log_p")
    expected = (wide["yellow"] - wide["green"]).rename_axis(["item", "k"])
    before = table.groupby(["item", "k"])["log_odds_before"].first()
    np.testing.assert_allclose(before, expected.loc[before.index], atol=1e-4)
    assert result.items()["net"].isna().all()


def test_small_batches_or_few_layers_change_nothing_and_the_model_is_left_as_it_was(
    random_mllm, monkeypatch
):
    options = {"sites": ("residual", "head"), "windows": [(0, 1), (1, 1), (2, 2)]}
    options |= {"heads": [(1, 0), (2, 1)], "groups": ("evidence", "question", "answer")}
    layers = text_stack(random_mllm).layers
    hooks = [len(part._forward_hooks) for layer in layers for part in (layer, layer.mlp)]
    together = patching(random_mllm, ITEMS, RESPONSES, **options).table
    monkeypatch.setattr(patched, "AT_ONCE", 1)
    alone = patching(random_mllm, ITEMS, RESPONSES, batch_size=1, **options).table
    keys = ["item", "source", "site", "head", "first_layer", "last_layer", "group", "k"]
    pd.testing.assert_frame_equal(
        together.sort_values(keys, ignore_index=True),
        alone.sort_values(keys, ignore_index=True),
        atol=1e-4,
    )
    assert not any("forward" in vars(layer) for layer in layers)
    assert hooks == [len(part._forward_hooks) for layer in layers for part in (layer, layer.mlp)]
    assert all(weight.requires_grad for weight in random_mllm.model.parameters())


def test_an_estimate_is_right_for_a_small_edit_and_only_there(double):
    """First order: exact in the limit. The control differs by one level of brightness."""
    some = {
        "sites": ("residual", "attention", "mlp", "head"),
        "windows": [(1, 1)],
        "heads": [(1, 2)],
    }
    result = patching(double, ITEMS[:1], RESPONSES[:1], methods=("exact", "attribution"), **some)
    by_method = result.table.pivot(
        index=["source", "site", "group", "k"], columns="method", values="recovered"
    )
    error = (by_method["exact"] - by_method["attribution"]).abs().groupby("source").max()
    size = by_method["exact"].abs().groupby("source").max()
    assert size["control"] > 1e-4 and error["control"] < 0.2 * size["control"]
    assert error["edit"] > error["control"]
    found = result.agreement().set_index("site")
    assert set(found.index) == set(some["sites"])
    assert (found["error"] > 0).all() and (found["n"] == 2 * 5 * 3).all()


# --- Planted ------------------------------------------------------------------------------------


def planted(place, seed, others=0.03):
    """A model in which one head carries almost all that the picture says to later tokens."""
    mllm = tiny_mllm(seed=seed)
    with torch.no_grad():
        for number, layer in enumerate(text_stack(mllm).layers):
            weight = layer.self_attn.o_proj.weight
            for head in range(4):
                columns = weight[:, 16 * head : 16 * head + 16]
                columns.mul_(4.0 if (number, head) == place else others)
        mllm.model.lm_head.weight.mul_(2.0)  # so that answers differ by nats
    return mllm


def asked(mllm, n, seed=0):
    """Items whose right answers are what the model's answers move between."""
    items = [problem(str(at), 100 * seed + at) for at in range(n)]
    texts = [render_response(STEPS[:1], "green")] * n
    read = [
        commitment(mllm, items, texts, controls=["rationale"], images=images).table
        for images in (None, [one.twin.image for one in items])
    ]
    last = [
        table[table["step"] == 1].pivot(index="item", columns="candidate", values="log_p")
        for table in read
    ]
    found = []
    for one in items:
        moved = (last[1] - last[0]).loc[one.id]
        pair = (moved.idxmin(), moved.idxmax())
        if moved.max() - moved.min() < 1.1:
            continue
        twin = replace(one.twin, answer=pair[1])
        control = replace(one.control, answer=pair[0])
        found.append(replace(one, answer=pair[0], twin=twin, control=control))
    return found, texts[: len(found)]


@pytest.mark.parametrize(("place", "seed"), [((2, 1), 0), ((1, 3), 2)])
def test_a_planted_head_is_found_and_no_other(place, seed):
    mllm = planted(place, seed)
    items, texts = asked(mllm, 16, seed)
    options = {"groups": ("answer",)}
    result = patching(mllm, items, texts, sites=("head",), **options)
    best = result.curve("net", n_boot=1).groupby(["first_layer", "head"])["value"].max()
    assert best.idxmax() == place  # no other head scores as much: an AUROC of 1
    carriers = result.carriers(least=0.3)
    assert {tuple(row) for row in carriers[["first_layer", "head"]].to_numpy()} == {place}
    assert f"net share of head {place[1]}, layer {place[0]}, answer" in result.describe()
    if place == (1, 3):
        return
    searched = patching_search(mllm, items, texts, width=1, keep=1, **options)
    heads = searched.curve("net", n_boot=1).query("site == 'head'")
    assert set(heads["first_layer"]) == {place[0]}
    assert heads["value"].max() == pytest.approx(best.max(), abs=1e-4)


def test_a_model_that_does_not_tell_the_twin_raises_no_alarm():
    mllm = planted(None, 0, others=0.0)
    items = [problem(str(at), at) for at in range(6)]
    texts = [render_response(STEPS[:1], "green")] * 6
    result = patching(mllm, items, texts, sites=("residual", "attention"), windows=[(0, 0)])
    assert result.table.query("group == 'answer'")["recovered"].abs().max() < 1e-4
    assert result.carriers().empty
    assert "On 6 of 6 items the edit moves the answer" in result.describe()


def test_false_alarms_where_the_control_moves_as_much_are_rare():
    """Tables without an effect: 30 patches of 8 items, alarms in at most 5 % (and luck)."""
    rng, alarms = np.random.default_rng(0), 0
    cells = [("residual", -1, at, at, group) for at in range(6) for group in PARTS]
    for _ in range(40):
        rows = [
            (f"{item}", "exact", source, *cell, 0, 0, 0.0, 3.0, recovered)
            for item in range(8)
            for source in ("edit", "control")
            for cell, recovered in zip(cells, rng.normal(0, 1, len(cells)), strict=True)
        ]
        result = Patching(pd.DataFrame(rows, columns=list(Patching.columns)))
        alarms += not result.carriers().empty
    assert alarms <= 4  # the 95 % quantile of a binomial with 5 %


# --- The table ----------------------------------------------------------------------------------


def test_items_curve_and_warnings_by_hand():
    cell = ("exact", "residual", -1, 0, 0, "answer")
    rows = [
        ("q", cell[0], "edit", *cell[1:], 0, 1, 0.0, 4.0, 1.0),
        ("q", cell[0], "edit", *cell[1:], 1, 1, 1.0, 3.0, 1.0),
        ("q", cell[0], "control", *cell[1:], 1, 1, 1.0, 0.0, 0.5),
        ("r", cell[0], "edit", *cell[1:], 1, 1, 1.0, 1.5, 0.5),
    ]
    result = Patching(pd.DataFrame(rows, columns=list(Patching.columns)))
    items = result.items().set_index(["item", "k"])
    assert items["gap"].tolist() == [4.0, 2.0, 0.5]
    np.testing.assert_array_equal(items["share"], [0.25, 0.5, np.nan])
    np.testing.assert_array_equal(items["net"], [np.nan, 0.5, np.nan])
    np.testing.assert_array_equal(items["net_share"], [np.nan, 0.25, np.nan])
    (last,) = result.curve("share").itertuples()
    assert (last.value, last.n) == (0.5, 1)
    values = item_values(model="m", seed=0, results=[result])
    by_metric = values.groupby("metric")["value"].agg(list)
    assert by_metric["patch_gap"] == [2.0, 0.5]
    np.testing.assert_array_equal(by_metric["patch_net_share"], [0.25, np.nan])
    (first,) = result.curve("share", step="first").itertuples()
    assert (first.value, first.n) == (0.25, 1)
    said = result.describe()
    assert said.startswith("On 1 of 2 items the edit moves the answer after the last step by less")
    assert "1 of 2 items have no control edit" in said
    with pytest.raises(MeasureError, match=r"after step 7; .*'last' or one of \[0, 1\]"):
        result.curve(step=7)
    with pytest.raises(MeasureError, match="no quantity 'p'"):
        result.curve("p")
    with pytest.raises(MeasureError, match="patch twice"):
        Patching(pd.concat([result.table, result.table]))


def test_what_cannot_be_patched_is_left_out_by_name_or_refused(random_mllm):
    other = replace(
        ITEMS[0], id="size", twin=replace(ITEMS[0].twin, image=noise_image(96, 64), boxes=())
    )
    bare = replace(ITEMS[0], id="bare", twin=None)
    found = patching(
        random_mllm,
        [ITEMS[0], other, bare],
        [RESPONSES[0]] * 3,
        windows=[(2, 2)],
        groups=["answer"],
    )
    assert found.skipped == {
        "no edit twin": ("bare",),
        "the edited picture makes other tokens": ("size",),
    }
    assert list(found.problems) == ["b"]
    with pytest.raises(MeasureError, match="No item allows patching from the edit 'twin'"):
        patching(random_mllm, [bare], RESPONSES[:1])
    for wrong, said in (
        ({"sites": ["logits"]}, "choose from residual, attention, mlp, head"),
        ({"groups": []}, "groups is"),
        ({"heads": [(3, 0)]}, r"below \(3, 4\)"),
        ({"methods": ["attribution"], "windows": [(0, 1)]}, "windows of one layer"),
    ):
        with pytest.raises(MeasureError, match=said):
            patching(random_mllm, ITEMS, RESPONSES, **wrong)
