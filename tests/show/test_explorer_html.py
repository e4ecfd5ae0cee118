"""The explorer's pages and its widget: what they hold, that text stays text, what is chosen."""

import base64
import gzip
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from attcot_analysis.errors import RunError, ShowError
from attcot_analysis.show.explorer.page import (
    arm_of,
    explorer_fragment,
    explorer_page,
    json_text,
    model_specs,
    page_script,
    script_policy,
    static_text,
    steps_before,
)
from attcot_analysis.show.explorer.planes import plane_stats, plane_weights
from attcot_analysis.show.explorer.record import answer_end, select
from attcot_analysis.show.explorer.widget import Explorer
from benchmarks.explorer import planted_record

HOSTILE = "</script><script>alert(1)</script><!-- &amp; <b>"


@pytest.fixture(scope="module")
def record():
    return planted_record(models=2)


@pytest.fixture
def explorer(record):
    return Explorer(record)


def state_of(page: str) -> dict:
    return json.loads(re.search(r'id="state">(.*?)</script>', page)[1])


def data_of(page: str) -> bytes:
    return gzip.decompress(base64.b64decode(re.search(r'id="data">(.*?)</script>', page)[1]))


class Tags(HTMLParser):
    """Counts elements as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_a_page_is_the_same_every_time_and_holds_every_map(record):
    page = explorer_page(record)
    assert page == explorer_page(record)
    spec = state_of(page)["spec"]
    sizes = [spec["parts"] * (24 + rows * cols) for _, rows, cols in spec["index"]]
    planes = sum(size + -size % 4 for size in sizes)
    assert len(data_of(page)) == planes + 2 * spec["headMasses"]
    assert spec["headMasses"] == spec["parts"] * 16 and spec["note"] == ""
    assert spec["tokens"] == list(record.tokens) and spec["live"] is False


def test_a_page_names_no_other_address(record):
    page = explorer_page(record)
    assert set(re.findall(r"https?://[\w./]+", page)) == {"http://www.w3.org/2000/svg"}
    tags = Tags(page).found
    assert not [one for one in tags if one[1].get("src", "").startswith("http")]
    (policy,) = [attrs["content"] for _, attrs in tags if "http-equiv" in attrs]
    assert "default-src 'none'" in policy and script_policy() in policy
    assert "unsafe-inline" not in policy.split("script-src")[1]


def test_text_of_models_and_data_is_no_markup():
    page = explorer_page(planted_record(models=2, text=HOSTILE))
    plain = explorer_page(planted_record(models=2))
    assert [tag for tag, _ in Tags(page).found] == [tag for tag, _ in Tags(plain).found]
    assert HOSTILE in state_of(page)["spec"]["question"]
    fragment = explorer_fragment(planted_record(models=2, text=HOSTILE))
    assert [tag for tag, _ in Tags(fragment).found] == ["div", "style", "img", "iframe"]


@pytest.mark.parametrize("sign", ["<", ">", "&", "\u2028", "\u2029", "</script>", "<!--"])
def test_json_in_a_page_ends_nothing(sign):
    text = json_text({"a": f"x{sign}y"})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"a": f"x{sign}y"}


def test_the_page_runs_the_widgets_own_script():
    script, widget = page_script(), static_text("explorer.js")
    assert widget.rstrip().endswith("export default { render };")
    assert script.rstrip().endswith("standalone();")
    kept = [line.strip() for line in widget.splitlines()]
    assert set(script.splitlines()) - {"standalone();"} <= set(kept)
    # Lines are dropped as comments by how they start, so no template may run over a line.
    assert all(line.count("`") % 2 == 0 for line in kept)


def test_commitment_is_on_the_axis_of_the_tokens(record):
    after = steps_before(record.steps)
    assert after.tolist() == [0] * 10 + [1] * 8 + [2] * 8 + [3] * 5
    first, second = model_specs(record)
    assert np.array(second["p"])[:, 0] == pytest.approx([0.05, 0.31667, 0.58333, 0.85], abs=1e-4)
    assert (first["correct"], second["correct"]) == (False, True)
    assert second["leaked"][3] == [True, False, False, False]
    assert not any(map(any, second["leaked"][:3]))
    assert answer_end(record.tokens, record.answer, "blue") == record.answer + 1


def test_a_model_looks_the_same_as_elsewhere(record):
    from attcot_analysis.show.style import arm_style, page_color

    assert arm_of("CoT-SFT") == "cot_sft" and arm_of("my own") == "my own"
    assert [one["color"] for one in model_specs(record)] == [
        page_color(arm_style("cot_sft").color),
        page_color(arm_style("att_cot").color),
    ]
    strangers = planted_record(models=4, labels=("a", "b", "c", "d"))
    assert len({one["color"] for one in model_specs(strangers)}) == 4


# --- The widget -----------------------------------------------------------------------------------


def test_selection_is_read_and_set(explorer):
    assert explorer.selection == select(explorer.record, token="step 1")
    explorer.select(layer=2, head="visual")
    chosen = explorer.selection
    assert (chosen.layer, chosen.head, chosen.unit, chosen.step) == (2, "visual", "step", 1)
    explorer.select(token="answer", source="rollout", layer=None)
    chosen = explorer.selection
    assert (chosen.layer, chosen.token, chosen.text, chosen.unit) == ("mean", 29, "blue", "token")
    # As the page sets them.
    explorer.head, explorer.layer, explorer.token, explorer.unit = -2, 1, 12, "step"
    chosen = explorer.selection
    assert (chosen.head, chosen.layer, chosen.step, chosen.unit) == ("max", 1, 2, "step")
    explorer.token = 0
    assert explorer.selection.unit == "token", "outside of steps there is only the token"


@pytest.mark.parametrize(
    "change", [{"token": 31}, {"layer": 4}, {"head": -4}, {"source": "other"}, {"layer": -3}]
)
def test_neither_page_nor_user_select_what_is_not_there(explorer, change):
    before = explorer.selection
    with pytest.raises(ShowError):
        for name, value in change.items():
            setattr(explorer, name, value)
    with pytest.raises(ShowError):
        explorer.select(**change)
    assert explorer.selection == before


def test_readings_and_table_say_the_same(explorer):
    explorer.select(layer=3, head=1, token=14)
    table = explorer.table()
    assert table.columns.tolist() == [
        "model", "token", "text", "step", "mass", "evidence_share", "spread", "peak"
    ]  # fmt: skip
    for reading, (_, row) in zip(
        explorer.readings, table[table["token"] == 14].iterrows(), strict=True
    ):
        found = (reading.label, reading.mass, reading.evidence, reading.spread, reading.peak)
        wanted = row[["model", "mass", "evidence_share", "spread", "peak"]]
        assert found[0] == wanted.iloc[0]
        assert found[1:] == pytest.approx(tuple(wanted.iloc[1:]))
    explorer.select(token="step 2")
    of_step = table[(table["step"] == 2) & (table["model"] == "CoT-SFT")]
    assert explorer.readings[0].mass == pytest.approx(of_step["mass"].mean())


def test_what_is_asked_for_is_sent_in_full(record, monkeypatch):
    big = planted_record(models=2, layers=6, heads=6, rows=24, cols=24)
    explorer, sent = Explorer(big, budget=100_000), []
    monkeypatch.setattr(explorer, "send", lambda *message, **more: sent.append((message, more)))
    assert len(explorer.data) < 300_000 and "Sent coarser" in explorer.spec["note"]
    names = ["attention.0.3.5", "attention.1.3.5"]
    explorer._handle_custom_msg({"kind": "planes", "names": names}, [])
    ((message,), more) = sent[0]
    assert message["index"] == [[name, 24, 24] for name in names]
    (data,) = more["buffers"]
    parts = len(big.parts)
    assert len(data) == 2 * parts * (24 + 576)
    stats = np.frombuffer(data[: parts * 24], "<f4").reshape(parts, 6)
    from attcot_analysis.show.explorer.planes import plane_cells, with_steps
    from attcot_analysis.show.explorer.record import read_key

    weights = with_steps(big, plane_weights(big, read_key(big, names[0])))
    expected = plane_stats(big, weights, plane_cells(big, weights))
    assert np.array_equal(stats[:, :5], expected[:, :5], equal_nan=True)
    explorer._handle_custom_msg({"kind": "other"}, [])
    assert len(sent) == 1


def test_what_a_notebook_keeps(explorer):
    explorer.select(token="step 2")
    data, _ = explorer._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"} == set(data)
    assert data["text/plain"] == (
        "Explorer(CoT-SFT vs Att-CoT: item planted, 31 tokens, 4 layers x 4 heads, grid 6x6)"
    )
    assert len(data["text/html"]) < 350_000
    assert "step 2, mean over its tokens" not in data["text/html"], "the picture is a picture"
    (frame,) = [attrs for tag, attrs in Tags(data["text/html"]).found if tag == "iframe"]
    assert state_of(frame["srcdoc"])["token"] == explorer.record.steps.index(2)
    lean, _ = Explorer(explorer.record, twin=False)._repr_mimebundle_()
    assert "text/html" not in lean


def test_a_file_is_not_overwritten_unasked(explorer, tmp_path):
    path = explorer.to_html(tmp_path / "sub" / "explorer.html")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(RunError, match="overwrite=True"):
        explorer.to_html(path)
    explorer.select(source="rollout")
    explorer.opacity = 0.5
    state = state_of(explorer.to_html(path, overwrite=True).read_text(encoding="utf-8"))
    assert (state["source"], state["opacity"]) == ("rollout", 0.5)


@pytest.mark.parametrize("models", [1, 2, 3])
@pytest.mark.parametrize("token", ["step 3", "answer", 0])
def test_the_figure_is_drawn_for_any_selection(models, token):
    import warnings

    from attcot_analysis.show.figures import figure_png

    explorer = Explorer(planted_record(models=models, text=HOSTILE), token=token, head="visual")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(figure_png(explorer.figure())) > 10_000


def test_a_sink_free_source_without_sinks_is_no_second_copy(record):
    from dataclasses import replace

    from attcot_analysis.attention.sinks import Sinks
    from attcot_analysis.show.explorer.planes import choose_planes

    none = Sinks(np.zeros((4, 50), bool), np.zeros((4, 50)), ((),) * 4, (0, 1, 2, 3), 7.0)
    models = tuple(
        replace(model, sinks=none, image_tokens=np.arange(36)) for model in record.models
    )
    same = replace(record, models=models)
    assert same.sources[:2] == ("attention", "sink_free")
    assert choose_planes(same, None).keys == choose_planes(record, None).keys
    (source,) = [one for one in Explorer(same).spec["sources"] if one["key"] == "sink_free"]
    assert source["own"] == "attention" and "no sink" in source["label"]
