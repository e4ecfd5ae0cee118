import io
import sys
import time

import numpy as np
import pytest
from PIL import Image

from attcot_analysis.errors import ShowError
from attcot_analysis.show.explorer import attention_explorer
from attcot_analysis.show.explorer_widget import Selection

TOKENS = ("1", ".", " <script>alert(1)</script>", "\n", " red", "</answer>")


@pytest.fixture(scope="module")
def grid():
    from attcot_analysis.models.grid import TokenGrid

    return TokenGrid.regular((96, 96), 6, 6)


@pytest.fixture
def boxes(problem):
    return [problem.steps[2].boxes] * 4 + [None] * 2


@pytest.fixture
def explorer(problem, maps, grid, boxes):
    return attention_explorer(problem.image, maps, grid, TOKENS, boxes=boxes, label="CoT-SFT")


@pytest.fixture
def pair(problem, maps, grid, boxes):
    return attention_explorer(
        problem.image,
        maps,
        grid,
        TOKENS,
        boxes=boxes,
        label="CoT-SFT",
        compare=(maps[::-1].copy(), "Att-CoT <b>"),
    )


def state(explorer) -> list[bytes]:
    return [picture.value for picture in explorer.images]


@pytest.mark.parametrize("control", ["layer", "head", "token"])
def test_moving_a_slider_changes_picture_readout_and_selection(explorer, control):
    before, text, chosen = state(explorer), explorer.readout.value, explorer.selection
    slider = getattr(explorer, control)
    slider.index = slider.index + 1
    assert state(explorer) != before
    assert explorer.readout.value != text
    assert explorer.selection != chosen
    slider.index = slider.index - 1
    assert state(explorer) == before
    assert explorer.readout.value == text


def test_opacity_changes_only_the_picture(explorer):
    before, text = state(explorer), explorer.readout.value
    explorer.opacity.value = 0.2
    assert state(explorer) != before
    assert explorer.readout.value == text


def test_the_readout_says_what_the_maps_hold(explorer, maps, grid, problem):
    explorer.select(layer=1, head=3, token=2)
    assert explorer.selection == Selection(1, 3, 2, TOKENS[2])
    (reading,) = explorer.readings
    values = maps[1, 3, 2].astype(float)
    assert reading.mass == pytest.approx(values.sum())
    assert reading.patch == np.unravel_index(values.argmax(), (6, 6))
    inside = (values * grid.coverage(problem.steps[2].boxes)).sum()
    assert reading.evidence == pytest.approx(inside / values.sum())
    for part in (f"{reading.mass:.3f}", f"{reading.evidence:.3f}", "layer 1, head 3, token 2"):
        assert part in explorer.readout.value


def test_mean_is_over_all_layers_and_heads(explorer, maps):
    explorer.select(layer=None, head=None, token=1)
    assert explorer.readings[0].mass == pytest.approx(maps[:, :, 1].mean((0, 1)).sum(), rel=1e-5)
    explorer.select(layer=2)
    assert explorer.readings[0].mass == pytest.approx(maps[2, :, 1].mean(0).sum(), rel=1e-5)
    explorer.select(layer=None, head=0)
    assert explorer.readings[0].mass == pytest.approx(maps[:, 0, 1].mean(0).sum(), rel=1e-5)


def test_a_token_without_boxes_has_no_evidence_share(explorer):
    explorer.select(token=5)
    assert np.isnan(explorer.readings[0].evidence)
    assert ">–</td>" in explorer.readout.value


def test_comparison_draws_both_and_the_difference_on_shared_scales(pair, maps):
    assert len(pair.images) == 3
    pair.select(layer=0, head=0, token=0)
    top = max(maps[0, 0].max(), maps[-1, 0].max())
    limit = np.abs(maps[-1, 0].astype(float) - maps[0, 0]).max()
    assert f"{top:.2g} weight" in pair.scales.value
    assert f"+{limit:.2g} difference" in pair.scales.value
    pair.scale.value = pair.scale.options[1]
    own = max(maps[0, 0, 0].max(), maps[-1, 0, 0].max())
    assert f"{own:.2g} weight" in pair.scales.value
    # The middle layer is its own mirror image: nothing changed there.
    pair.select(layer=1)
    difference = np.asarray(Image.open(io.BytesIO(pair.images[2].value)))
    assert "difference" in pair.readout.value
    first, second = pair.readings
    assert first.mass == second.mass
    assert difference.shape == (336, 336, 3)


def test_text_from_outside_is_escaped(pair):
    pair.select(token=2)
    for widget in (pair.strip, pair.readout):
        assert "<script>" not in widget.value
        assert "&lt;script&gt;" in widget.value
    captions = [child.children[0].value for child in pair.children[6].children]
    assert "<b>Att-CoT &lt;b&gt;</b>" in captions


def test_controls_have_names_and_pictures_can_be_drawn(explorer):
    for name in ("layer", "head", "token", "opacity", "scale"):
        control = getattr(explorer, name)
        assert control.description and control.tooltip
    assert all(picture.tooltip is None for picture in explorer.images), "JavaScript error in Lab"
    explorer.select(layer=0, head=None, token=4)
    assert "layer 0, head mean, token 4 (red)" in explorer.readout.value


def test_repr_is_short_and_the_same_for_everyone(explorer, pair):
    assert repr(explorer) == "AttentionExplorer(CoT-SFT: 3 layers, 4 heads, 6 tokens, grid 6x6)"
    assert len(repr(pair)) < 110
    assert explorer._repr_mimebundle_()["text/plain"] == repr(explorer)


def test_pictures_are_the_same_bytes_in_every_session(problem, maps, grid, explorer, boxes):
    again = attention_explorer(problem.image, maps, grid, TOKENS, boxes=boxes, label="CoT-SFT")
    assert state(again) == state(explorer)


def test_one_move_takes_less_than_a_frame(problem, grid):
    rng = np.random.default_rng(0)
    maps = rng.random((8, 8, 60, 36), dtype=np.float32)
    explorer = attention_explorer(problem.image, maps, grid, [f" t{i}" for i in range(60)])
    explorer.select(layer=3, head=2)
    times = []
    for token in range(1, 30):
        start = time.perf_counter()
        explorer.token.value = token
        times.append(time.perf_counter() - start)
    assert np.median(times) < 0.1  # about 6 ms; the bound is for a busy machine


def test_select_refuses_what_is_not_there(explorer):
    chosen = explorer.selection
    with pytest.raises(ShowError, match="no layer 3; choose from 0 to 2, or None"):
        explorer.select(token=1, layer=3)
    with pytest.raises(ShowError, match="no token 6; choose from 0 to 5"):
        explorer.select(token=6)
    assert explorer.selection == chosen


def test_parts_that_do_not_fit_are_refused(problem, maps, grid, boxes):
    def build(**changes):
        parts = {"maps": maps, "grid": grid, "tokens": TOKENS} | changes
        return attention_explorer(problem.image, **parts)

    with pytest.raises(ShowError, match=r"expected \(layers, heads, 5 tokens, 36 image tokens\)"):
        build(tokens=TOKENS[:5])
    with pytest.raises(ShowError, match="NaN"):
        build(maps=np.full_like(maps, np.nan))
    with pytest.raises(ShowError, match="same depth"):
        build(compare=(maps[:2], "after"))
    with pytest.raises(ShowError, match="2 box lists for 6 tokens"):
        build(boxes=boxes[:2])


def test_without_ipywidgets_one_sentence_says_what_to_do(problem, maps, grid, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.delitem(sys.modules, "attcot_analysis.show.explorer_widget")
    with pytest.raises(ShowError, match=r"pip install 'attcot-analysis\[notebooks\]'"):
        attention_explorer(problem.image, maps, grid, TOKENS)
