"""Presets: what they hold, and that explicit options override them."""

import pytest

from attcot_analysis.errors import MeasureError, ModelError
from attcot_analysis.models.families import FAMILIES
from attcot_analysis.presets import choose, find_preset, presets, written
from attcot_analysis.train.objective import AttCoTConfig

ONE = "{hub: a/b, parameters: 1, n_layers: 6, layers: [2, 3], dtype: float16, batch_size: 2}"


@pytest.mark.parametrize("name", presets())
def test_a_band_is_that_of_the_objective(name):
    preset = presets()[name]
    middle = AttCoTConfig().layers(preset.n_layers)
    # Of a model whose other layers see a window only, those of the band that see everything.
    assert set(preset.layers) <= set(middle)
    assert preset.layers == middle or len(preset.layers) < len(middle) / 2
    assert preset.hub.count("/") == 1


def test_the_first_families_have_a_preset():
    hubs = " ".join(preset.hub.lower() for preset in presets().values())
    signs = {
        "qwen2_5_vl": "qwen2.5-vl",
        "qwen3_vl": "qwen3-vl",
        "internvl": "internvl3",
        "llava": "llava-1.5",
        "llava_next": "llava-v1.6",
        "llava_onevision": "onevision",
        "gemma3": "gemma-3",
        "idefics3": "idefics3",
    }
    assert set(signs) <= {family.name for family in FAMILIES}
    assert all(sign in hubs for sign in signs.values())


def test_explicit_options_override_the_preset():
    plain = choose("qwen2.5-vl-7b")
    assert plain.name == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert (plain.dtype, plain.batch_size, plain.layers) == ("bfloat16", 16, tuple(range(9, 19)))
    chosen = choose("qwen2.5-vl-7b", dtype="float32", batch_size=3, layers=["1", "4-5"])
    assert (chosen.dtype, chosen.batch_size, chosen.layers) == ("float32", 3, (1, 4, 5))
    assert choose("qwen2.5-vl-7b", layers=["all"]).layers is None


def test_a_hub_id_stands_for_its_preset():
    for name in ("Qwen/Qwen2.5-VL-72B-Instruct", "qwen/qwen2.5-vl-72b-instruct"):
        chosen = choose(name, batch_size=2)
        assert chosen.preset is not None and chosen.preset.name == "qwen2.5-vl-72b"
        assert (chosen.name, chosen.dtype, chosen.batch_size) == (
            "Qwen/Qwen2.5-VL-72B-Instruct",
            "bfloat16",
            2,
        )
        assert chosen.layers == tuple(range(26, 54))


def test_folders_and_other_hub_ids_are_no_presets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qwen2.5-vl-7b").mkdir()
    assert find_preset("qwen2.5-vl-7b") is None
    assert find_preset("mine") is None
    (tmp_path / "Qwen" / "Qwen2.5-VL-7B-Instruct").mkdir(parents=True)
    assert find_preset("Qwen/Qwen2.5-VL-7B-Instruct") is None
    chosen = choose("some/model")
    assert (chosen.name, chosen.dtype, chosen.batch_size, chosen.layers) == (
        "some/model",
        None,
        64,
        None,
    )


def test_a_preset_of_another_depth_is_refused():
    chosen = choose("qwen2.5-vl-7b")
    chosen.check(28)
    with pytest.raises(ModelError, match=r"28 layers, but .* has 36"):
        chosen.check(36)


@pytest.mark.parametrize("words", [["x"], ["5-3"], ["-1"], ["1-"], ["all", "2"]])
def test_layers_that_cannot_be_read(words):
    with pytest.raises(MeasureError, match="names no layers"):
        choose("some/model", layers=words)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[1]", "must hold presets by name"),
        ("a: {hub: a/b}", "exactly the fields"),
        (f"a: {ONE.replace('[2, 3]', '[2, 6]')}", "of 6; give them in order"),
        (f"a: {ONE.replace('[2, 3]', '{of: [3, 3]}')}", "each once"),
        (f"a: {ONE.replace('[2, 3]', 'all')}", r"give \[first, last\]"),
        (f"a: {ONE.replace('float16', 'int4')}", "dtype is 'int4'"),
        (f"a: {ONE.replace('batch_size: 2', 'batch_size: 0')}", "batch_size 0"),
        ("a: {", "cannot be read"),
    ],
)
def test_what_does_not_hold_together_is_refused(tmp_path, text, sentence):
    path = tmp_path / "presets.yaml"
    path.write_text(text)
    with pytest.raises(ModelError, match=sentence):
        presets(path)


def test_layers_are_written_as_people_write_them():
    assert written((9, 10, 11)) == "9-11" and written((11, 17)) == "11, 17"
    assert written((4,)) == "4" and written((1, 3, 5)) == "1, 3, 5"
