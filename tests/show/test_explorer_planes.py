"""Planes against the obvious way to compute them; what quantising and reducing may cost."""

from dataclasses import replace

import numpy as np
import pytest

from attcot_analysis.attention.sinks import Sinks
from attcot_analysis.errors import ShowError
from attcot_analysis.models import TokenGrid
from attcot_analysis.show.explorer.planes import (
    STATS,
    choose_planes,
    coarse,
    pack_plane,
    plane_cells,
    plane_readings,
    plane_stats,
    plane_weights,
    say_parcel,
    with_steps,
)
from attcot_analysis.show.explorer.record import (
    ExplorerModel,
    ExplorerRecord,
    PlaneKey,
    read_key,
    select,
)
from benchmarks.explorer import planted_record


@pytest.fixture(scope="module")
def record():
    return planted_record(models=2, layers=3, heads=4, rows=5, cols=7)


@pytest.fixture(scope="module")
def with_sinks():
    """The first model's tokens 3 and 8 are sinks in layer 1."""
    record = planted_record(models=2, layers=3, heads=4)
    found = []
    for at, model in enumerate(record.models):
        tokens = np.zeros((3, 50), dtype=bool)
        if at == 0:
            tokens[1, [6 + 3, 6 + 8]] = True
        sinks = Sinks(tokens, tokens.astype(np.float32), ((), (), ()), (0, 1, 2), 7.0)
        found.append(replace(model, sinks=sinks, image_tokens=np.arange(6, 42)))
    return replace(record, models=tuple(found))


def obvious_weights(record: ExplorerRecord, key: PlaneKey) -> np.ndarray:
    """Heads one by one, then layers one by one."""
    model = record.models[key.model]
    source = "attention" if key.source == "sink_free" else key.source
    weights = np.array(model.by_source[source].weights, dtype=np.float64)
    if key.source == "sink_free":
        for layer, token in zip(*np.nonzero(model.sink_mask), strict=True):
            weights[layer, :, :, token] = 0
    if weights.shape[:2] == (1, 1):
        return weights[0, 0]
    if key.head == "visual" and key.layer == "mean":
        return np.mean([weights[layer, head] for layer, head in record.heads], axis=0)
    by_layer = []
    for layer in range(record.n_layers):
        heads = range(record.n_heads)
        if key.head == "visual":
            heads = [head for at, head in record.heads if at == layer]
        elif isinstance(key.head, int):
            heads = [key.head]
        some = [weights[layer, head] for head in heads] or [np.zeros_like(weights[0, 0])]
        by_layer.append(np.max(some, axis=0) if key.head == "max" else np.mean(some, axis=0))
    if isinstance(key.layer, int):
        return by_layer[key.layer]
    return np.max(by_layer, axis=0) if key.layer == "max" else np.mean(by_layer, axis=0)


@pytest.mark.parametrize("head", ["mean", "max", "visual", 0, 3])
@pytest.mark.parametrize("layer", ["mean", "max", 1])
@pytest.mark.parametrize("source", ["attention", "sink_free"])
def test_planes_are_what_they_are_called(with_sinks, source, layer, head):
    for model in range(2):
        key = PlaneKey(source, model, layer, head)
        expected = obvious_weights(with_sinks, key)
        assert plane_weights(with_sinks, key) == pytest.approx(expected, rel=1e-5, abs=1e-8)
        some = plane_weights(with_sinks, key, slice(4, 9))
        assert some == pytest.approx(expected[4:9], rel=1e-5, abs=1e-8)


def test_sinks_are_left_out_where_they_are(with_sinks):
    whole = plane_weights(with_sinks, PlaneKey("attention", 0, 1, 2))
    without = plane_weights(with_sinks, PlaneKey("sink_free", 0, 1, 2))
    assert (without[:, [3, 8]] == 0).all() and (whole[:, [3, 8]] > 0).all()
    other = plane_weights(with_sinks, PlaneKey("sink_free", 0, 2, 2))
    assert (other == plane_weights(with_sinks, PlaneKey("attention", 0, 2, 2))).all()


def test_a_layer_without_visual_heads_is_empty(record):
    few = replace(record, heads=((0, 1),))
    assert not plane_weights(few, PlaneKey("attention", 0, 2, "visual")).any()
    only = plane_weights(few, PlaneKey("attention", 0, "mean", "visual"))
    assert only == pytest.approx(plane_weights(few, PlaneKey("attention", 0, 0, 1)))


def test_a_packed_plane_holds_numbers_and_levels(record):
    key = PlaneKey("attention", 1, 2, "mean")
    plane = pack_plane(record, key)
    weights = with_steps(record, plane_weights(record, key))
    n = len(record.parts)
    stats = np.frombuffer(plane.data[: n * 24], "<f4").reshape(n, 6)
    levels = np.frombuffer(plane.data[n * 24 : n * 24 + n * 35], np.uint8).reshape(n, 35)
    assert len(plane.data) % 4 == 0 and (plane.rows, plane.cols) == (5, 7)
    scale = stats[:, STATS.index("scale")]
    assert scale == pytest.approx(weights.max(axis=1))
    # Levels are spaced by squares: a level is off by half a step at most.
    error = np.abs(np.sqrt(weights / scale[:, None]) - levels / 255.0)
    assert error.max() <= 0.5 / 255 + 1e-6
    assert (levels.argmax(axis=1) == stats[:, STATS.index("cell")]).all()


def test_stats_against_loops(record):
    key = PlaneKey("attention", 0, "mean", "max")
    weights = with_steps(record, plane_weights(record, key))
    stats = plane_stats(record, weights, plane_cells(record, weights))
    for part, tokens in enumerate(record.parts):
        row = weights[part].astype(float)
        mass, share, spread, peak, cell, _ = stats[part]
        assert mass == pytest.approx(sum(row), rel=1e-5)
        entropy = -sum(w / sum(row) * np.log(w / sum(row)) for w in row if w > 0)
        assert spread == pytest.approx(np.exp(entropy), rel=1e-4)
        assert (peak, cell) == (pytest.approx(max(row)), row.argmax())
        boxes = record.boxes[tokens[0]]
        if boxes:
            cover = record.grid.coverage(boxes)
            assert share == pytest.approx((row * cover).sum() / row.sum(), rel=1e-4)
        else:
            assert np.isnan(share)


def test_a_step_is_the_mean_of_its_tokens(record):
    key = PlaneKey("attention", 0)
    weights = plane_weights(record, key)
    for number in (1, 2, 3):
        chosen = select(record, token=f"step {number}")
        part = record.part_of(chosen)
        tokens = [at for at, step in enumerate(record.steps) if step == number]
        assert record.parts[part] == tuple(tokens)
        mean = weights[tokens].mean(axis=0)
        (reading,) = plane_readings(record, [key], part)
        assert reading.mass == pytest.approx(mean.sum(), rel=1e-5)
        assert reading.patch == divmod(int(mean.argmax()), 7)
    outside = select(record, token="answer")
    assert record.part_of(outside) == outside.token == len(record.tokens) - 2


def test_tokens_without_a_map_are_told(record):
    key = PlaneKey("gradient_relevance", 0)
    (reading,) = plane_readings(record, [key], 0)
    assert np.isnan([reading.mass, reading.peak, reading.spread]).all()
    (reading,) = plane_readings(record, [key], record.steps.index(2))
    assert reading.mass > 0


def test_negative_weights_keep_their_sign(record):
    maps = record.models[0].by_source["rollout"]
    signed = replace(maps, weights=maps.weights - np.float32(0.02), source="occlusion")
    models = tuple(ExplorerModel(model.label, (model.maps[0], signed)) for model in record.models)
    plane = pack_plane(replace(record, models=models), PlaneKey("occlusion", 0))
    n = len(record.parts)
    levels = np.frombuffer(plane.data[n * 24 : n * 59], np.uint8).reshape(n, 35).astype(float)
    s = (levels[:31] - 128) / 127
    scale = np.abs(signed.weights[0, 0]).max(axis=1, keepdims=True)
    error = np.abs(scale * s * np.abs(s) - signed.weights[0, 0])
    assert error.max() <= 0.01 * scale.max()
    assert (np.sign(s) == np.sign(signed.weights[0, 0]))[error > 1e-4].all()


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_coarse_maps_are_means_of_blocks(factor):
    cells = np.random.default_rng(0).random((2, 7, 10)).astype(np.float32)
    found = coarse(cells, factor)
    for row in range(-(-7 // factor)):
        for col in range(-(-10 // factor)):
            block = cells[:, row * factor :, col * factor :][:, :factor, :factor]
            assert found[:, row, col] == pytest.approx(block.mean(axis=(1, 2)), rel=1e-5)


def test_tokens_in_no_single_grid_are_painted(record):
    """Two views of the picture, one of them finer, as families with tiles have them."""
    boxes = np.array([[x, y, x + 8, y + 8] for y in range(0, 32, 8) for x in range(0, 32, 8)])
    whole = np.array([[0.0, 0.0, 32.0, 32.0]])
    grid = TokenGrid((32, 32), np.concatenate([whole, boxes]).astype(float))
    maps = record.models[0].maps[0]
    weights = np.random.default_rng(1).random((3, 4, len(maps.tokens), 17)).astype(np.float32)
    tiled = replace(maps, weights=weights, grid=grid, boxes=((),) * len(maps.tokens))
    made = ExplorerRecord(record.problem, (ExplorerModel("tiled", (tiled,)),))
    assert made.shape == (4, 4)
    key = PlaneKey("attention", 0, 1, 2)
    cells = plane_cells(made, plane_weights(made, key))
    expected = weights[1, 2, :, 1:].reshape(-1, 4, 4) + weights[1, 2, :, :1, None] / 16
    assert cells == pytest.approx(expected, rel=1e-5)
    assert pack_plane(made, key).rows == 4


# --- What a page carries --------------------------------------------------------------------------


def size_of(record, parcel) -> int:
    return sum(
        len(pack_plane(record, key, factor).data)
        for key, factor in zip(parcel.keys, parcel.factors, strict=True)
    )


def test_without_limit_everything_is_sent_once(record):
    parcel = choose_planes(record, None)
    assert parcel.whole and len(set(parcel.keys)) == len(parcel.keys) == parcel.n_all
    # (3 layers, mean, max) x (4 heads, mean, max, visual), rollout, relevance; two models.
    assert parcel.n_all == 2 * (5 * 7 + 2)
    assert say_parcel(record, parcel, live=False) == ""


@pytest.mark.parametrize("budget", [20_000, 60_000, 150_000])
def test_a_budget_is_kept_and_what_is_missing_is_said(budget):
    record = planted_record(models=2, layers=6, heads=6, rows=24, cols=24)
    parcel = choose_planes(record, budget)
    assert size_of(record, parcel) <= budget or len(parcel.keys) == 6
    assert PlaneKey("attention", 0) in parcel.keys and PlaneKey("attention", 1) in parcel.keys
    said = say_parcel(record, parcel, live=False)
    assert "6 layers × 6 heads × 31 tokens × 24×24" in said
    assert all(words in said for words in (*parcel.coarse, *parcel.missing))
    assert parcel.missing or parcel.coarse
    assert "kernel" in say_parcel(record, parcel, live=True)


def test_what_is_selected_is_sent_first():
    record = planted_record(models=2, layers=6, heads=6, rows=24, cols=24)
    first = PlaneKey("attention", 0, 4, 5)
    assert first not in choose_planes(record, 30_000).keys
    parcel = choose_planes(record, 30_000, first)
    assert {first, first._replace(model=1)} <= set(parcel.keys)


# --- Refusals -------------------------------------------------------------------------------------


def test_records_whose_parts_do_not_fit_are_refused(record):
    first, second = record.models
    shorter = replace(first.maps[0], tokens=first.maps[0].tokens[:-1])
    with pytest.raises(ShowError, match="same text, tokenised alike"):
        replace(record, models=(first, replace(second, maps=(shorter, *second.maps[1:]))))
    with pytest.raises(ShowError, match="same sources"):
        replace(record, models=(first, replace(second, maps=second.maps[:1])))
    shallow = replace(first.maps[0], weights=first.maps[0].weights[:2])
    with pytest.raises(ShowError, match="same depth"):
        replace(record, models=(first, replace(second, maps=(shallow, *second.maps[1:]))))
    with pytest.raises(ShowError, match="no heads"):
        replace(record, heads=((3, 0),))
    with pytest.raises(ShowError, match="at least one model"):
        replace(record, models=())
    sinks = Sinks(np.zeros((3, 50), bool), np.zeros((3, 50)), ((),) * 3, (0, 1, 2), 7.0)
    with pytest.raises(ShowError, match="all or none"):
        found = replace(first, sinks=sinks, image_tokens=np.arange(35))
        replace(record, models=(found, second))
    with pytest.raises(ShowError, match="give its image_tokens"):
        replace(record, models=(replace(first, sinks=sinks), second))


@pytest.mark.parametrize(
    ("choice", "match"),
    [
        ({"layer": 3}, "no layer 3; choose from 0 to 2"),
        ({"layer": "visual"}, "no layer visual"),
        ({"head": -1}, "no head -1"),
        ({"head": "all"}, "no head all"),
        ({"token": 31}, "no token 31; choose from 0 to 30"),
        ({"token": "step 4"}, "no 'step 4'"),
        ({"source": "saliency"}, "no source 'saliency'; this explorer has attention"),
    ],
)
def test_a_choice_that_is_not_there_is_refused(record, choice, match):
    with pytest.raises(ShowError, match=match):
        select(record, **choice)


def test_keys_are_read_back_and_others_refused(record):
    for key in choose_planes(record, None).keys:
        assert read_key(record, key.name) == key
    for name in ("attention.0.mean", "attention.2.mean.mean", "attention.x.0.0", "a.0.0.0", "...."):
        with pytest.raises(ShowError):
            read_key(record, name)
