"""Benches at small shapes: what they report, and that a missed bar is seen."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

import benchmarks as benches
from attcot_analysis.errors import MeasureError, RunError
from benchmarks import access, commitment, grpo, run_bench, sayo, traces, training, vista
from benchmarks import bench as peak
from benchmarks.__main__ import main
from benchmarks.bench import (
    QWEN_0_5B,
    QWEN_7B,
    SMALL,
    Row,
    format_rows,
    interleaved,
    judged,
    random_batch,
    random_mllm,
    ratio,
    read_rows,
    sdpa_kernels,
)


@pytest.fixture(scope="module")
def small():
    return random_mllm(SMALL)


@pytest.mark.parametrize(
    ("value", "bounds", "bar", "holds"),
    [
        (1.12, {"at_most": 1.12}, "<= 1.12", True),
        (1.121, {"at_most": 1.12}, "<= 1.12", False),
        (6.0, {"at_least": 6}, ">= 6", True),
        (5.9, {"at_least": 6}, ">= 6", False),
        (0.7, {"at_least": 0.8, "at_most": 1.2}, "0.8 to 1.2", False),
        (float("nan"), {"at_most": 1}, "<= 1", False),
    ],
)
def test_a_bar_is_judged(value, bounds, bar, holds):
    row = judged("x", value, "x", **bounds)
    assert (row.bar, row.holds) == (bar, holds)
    assert judged("x", value, "x").holds is None


def test_a_verdict_needs_a_bar():
    with pytest.raises(MeasureError, match="give both or neither"):
        Row("x", 1.0, "x", holds=True)


def test_the_table_shows_every_row_and_the_bar_missed():
    rows = [Row("kernel", "flash x 2", "name"), judged("time", 2.0, "x", at_most=1.5)]
    head, first, second = format_rows(rows).splitlines()
    assert head.split() == ["value", "unit", "bar", "holds"]
    assert first.split() == ["kernel", "flash", "x", "2", "name"]
    assert second.split() == ["time", "2", "x", "<=", "1.5", "NO"]


def test_variants_take_turns_and_the_first_round_does_not_count():
    calls = []
    found = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert {name: values.shape for name, values in found.items()} == {"a": (2,), "b": (2,)}
    seconds = {"a": np.array([2.0, 20.0, 8.0]), "b": np.array([1.0, 10.0, 2.0])}
    assert ratio(seconds, "a", "b") == 2.0


@pytest.fixture
def allocating(tmp_path, monkeypatch):
    """A module for a child process, whose function `allocate` needs as much memory as asked."""
    (tmp_path / "allocating.py").write_text(
        "import torch\n"
        "def allocate(mebibytes):\n"
        "    return lambda: torch.ones(mebibytes * 2**20, dtype=torch.uint8)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return "allocating"


@pytest.mark.long
def test_peak_memory_is_the_calls_own(allocating):
    """A larger peak of this process, or of the child before the call, does not show."""
    torch.ones(2**30, dtype=torch.uint8)
    found = peak.peak_memory(allocating, "allocate", {"mebibytes": 400})
    assert 350 <= found.added / 2**20 <= 450
    assert found.peak < 1000 * 2**20


@pytest.mark.long
def test_a_measuring_process_that_fails_says_why(allocating):
    with pytest.raises(MeasureError, match="no attribute 'nothing'"):
        peak.peak_memory(allocating, "nothing", {})


@torch.no_grad()
def test_kernels_are_those_that_ran():
    query = torch.randn(1, 2, 8, 16)
    wide = torch.randn(1, 2, 8, 24)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert sdpa_kernels(lambda: [attend(query, query, query) for _ in range(3)]) == "flash x 3"
    assert sdpa_kernels(lambda: attend(query, query, wide)) == "math x 1"
    assert sdpa_kernels(lambda: query + 1) == "none"


def test_shapes_are_those_of_the_real_models(small):
    assert QWEN_0_5B.head_size == 64 and QWEN_7B.head_size == 128
    assert (small.n_layers, small.n_heads) == (SMALL.layers, SMALL.heads)
    layers = small.model.model.language_model.layers
    counted = sum(p.numel() for p in layers.parameters() if p.ndim == 2)
    assert counted == SMALL.layer_weights
    # 0.49e9 and 7.6e9 with embeddings, by their model cards 0.36e9 and 6.53e9 without.
    assert round(QWEN_0_5B.layer_weights / 1e9, 2) == 0.36
    assert round(QWEN_7B.layer_weights / 1e9, 2) == 6.53


@torch.no_grad()
def test_access_compares_the_same_pass(small):
    """All three variants compute the same; the probe reads what eager shows, in every layer."""
    batch = random_batch(small, 96)
    assert int((batch["input_ids"] == small.image_token_id).sum()) == 48
    cols, rows = access.probe_inputs(batch)
    assert rows.tolist() == [list(range(71, 95))] and cols.shape == (1, 96, access.GROUPS)
    found, weights = access.probed(small, batch), access.eager(small, batch)
    assert len(found) == len(weights) == SMALL.layers
    for layer, weight in enumerate(weights):
        expected = torch.einsum("bhrt,btc->bhrc", weight[:, :, 71:95], cols)
        assert torch.allclose(found[layer], expected, atol=1e-5)
    assert small.text_config._attn_implementation == "sdpa"
    assert access.eager_bytes(QWEN_0_5B, 8192) == 24 * 14 * 8192 * 8192 * 4


PEAKS = {"plain": 1000, "probed": 1010, "eager": 1500}


def fake_peak(module, function, options):
    assert (module, function) == (access.__name__, "prepare")
    assert callable(getattr(access, function)) and options["shape"] == access.QUICK.shape
    return peak.Peak(900 * 2**20, PEAKS[options["variant"]] * 2**20)


def test_what_the_child_process_runs():
    """Built from plain values, it runs the variant and nothing else."""
    call = access.prepare("probed", access.QUICK.shape, 96)
    masses = call()
    assert len(masses) == SMALL.layers and masses[0].shape == (1, SMALL.heads, 24, access.GROUPS)


@pytest.mark.long
def test_access_reports_every_row_of_the_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(access, "peak_memory", fake_peak)
    path = tmp_path / "new" / "access.json"
    assert main(["access", "--quick", "--quiet", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())
    assert all(set(row) == {"name", "value", "unit", "bar", "holds"} for row in rows)
    assert all(row["bar"] is None and row["holds"] is None for row in rows)
    values = {row["name"]: row["value"] for row in rows}
    for length in (access.QUICK.length, access.QUICK.long):
        assert values[f"time, probed / plain, T={length}"] > 0
        assert values[f"peak memory, probed / plain, T={length}"] == 1.01
        assert values[f"memory of the pass alone, probed, T={length}"] == 110
    assert values[f"memory on top of plain, eager / probed, T={access.QUICK.length}"] == 50
    assert values[f"time, eager / probed, T={access.QUICK.length}"] > 0
    assert values[f"largest difference of a mass to eager, T={access.QUICK.length}"] < 1e-5
    assert values["kernels of the plain pass"] == f"flash x {SMALL.layers}"
    assert values["kernels of the probed pass"] == f"flash x {3 * SMALL.layers}"
    assert values["torch threads"] == torch.get_num_threads()
    assert [row.name for row in read_rows(path)] == list(values)
    printed = capsys.readouterr().out
    assert all(name in printed for name in values)


@pytest.mark.long
def test_access_on_a_device_runs():
    """The table for accelerators, here on the CPU: without the rows of device memory."""
    rows = access.device_rows(access.DEVICE_QUICK, "cpu")
    values = {row.name: row.value for row in rows}
    for length in access.DEVICE_QUICK.lengths:
        assert values[f"time, probed / plain, T={length}"] > 0
        assert values[f"plain pass over its floor, T={length}"] > 0
        assert values[f"kernels of the plain pass, T={length}"] == f"flash x {SMALL.layers}"
        assert f"peak memory, probed / plain, T={length}" not in values
    speeds = access.Speeds(half=1e12, single=1e12, copy=1e15)
    floors = [access.probe_floor(QWEN_7B, speeds, n) for n in (4096, 8192)]
    assert floors[1] / floors[0] == pytest.approx(4.0)
    assert access.pass_floor(QWEN_7B, speeds, 4096) > 2 * 6.5e9 * 4096 / 1e12


@pytest.mark.long
def test_patching_reports_speed_and_equality():
    values = {row.name.split(",")[0]: row.value for row in run_bench("patching", quick=True)}
    assert values["largest difference of log-odds"] <= 1e-5
    assert values["time"] > 0 and values["tokens"] > 0


@pytest.mark.long
def test_commitment_reports_speed_and_equality():
    rows = run_bench("commitment", quick=True)
    differences = [row for row in rows if row.name.startswith("largest difference")]
    speeds = [row for row in rows if row.name.startswith("time, naive / packed")]
    assert len(differences) == len(speeds) == 2
    assert all(row.holds is None for row in rows)
    assert all(row.value <= 1e-4 for row in differences)
    tokens = [row.value for row in rows if row.name.startswith("tokens per step")]
    assert all(abs(n - commitment.QUICK.step_tokens - 4) <= 4 for n in tokens)


@pytest.mark.long
def test_traces_reports_memory_of_both_and_how_long_the_trace_was():
    rows = run_bench("traces", quick=True)
    values = {row.name: row.value for row in rows}
    assert all(row.holds is None for row in rows)
    for name in ("plain", "N=4", "all steps"):
        assert values[f"memory of the pass alone, {name}, K=12"] >= 0
    n = traces.QUICK.steps * traces.QUICK.tokens
    assert 0.7 * n <= values["tokens, K=12"] <= n + 150


@pytest.mark.long
def test_report_measures_pages_of_many_and_of_fewer_pictures():
    values = {row.name: row.value for row in run_bench("report", quick=True)}
    at = "6 pictures of 200 x 200"
    assert values[f"memory of the page alone, {at}"] > 0
    assert values[f"all pictures decoded, {at}"] == pytest.approx(6 * 3 * 200**2 / 2**20)


@pytest.mark.long
def test_growth_counts_the_tokens_that_it_is_labelled_by():
    values = {row.name: row.value for row in run_bench("growth", quick=True)}
    for size in (4, 16, 36):
        assert values[f"{size} image tokens"] > 0
    assert values["time, five samples of three cues / one of one"] > 1


@pytest.mark.long
def test_memory_reports_the_plan_against_a_run():
    values = {row.name: row.value for row in run_bench("memory", quick=True)}
    ways = [values[f"peak memory, {way}, 2 items"] for way in ("shared", "alone")]
    assert min(ways) > values["memory of a run, measured, 2 items"] > 0
    assert values["peak memory, shared / alone, 2 items"] == pytest.approx(ways[0] / ways[1])


@pytest.mark.long
def test_beside_reports_shares_and_ways_to_write():
    values = {row.name: row.value for row in run_bench("beside", quick=True)}
    assert 0 < values["share of a run, preparing, 64 x 64 pixels"] < 1
    for way in ("dynamic", "static"):
        assert values[f"time, {way} / ours, 64 wide"] > 0
        assert values[f"the same tokens as ours, {way}, 64 wide"] == 1


@pytest.mark.long
def test_vista_reports_every_case_and_what_it_drew():
    values = {row.name: row.value for row in run_bench("vista", quick=True)}
    for case in vista.CASES:
        assert 0 <= values[f"hard questions, {case}"] <= vista.QUICK.questions
        low, high = (
            values[f"{end}, {case}"] for end in ("low end of the difference", "high end of it")
        )
        assert low <= values[f"difference, {case}"] <= high
        mended, plain = (values[f"tokens sampled, {way}, {case}"] for way in ("mended", "plain"))
        assert mended < plain


@pytest.mark.long
def test_grpo_reports_every_run_before_and_after():
    values = {row.name: row.value for row in run_bench("grpo", quick=True)}
    for arm, kind in grpo.RUNS:
        for which in ("trained on", "not seen"):
            name = f"right answers, questions {which}, rewarded for {arm}, {kind}"
            low, high = (values[f"{end} end, {name}"] for end in ("low", "high"))
            assert low <= values[f"change of {name}"] <= high


def test_a_missed_bar_has_an_exit_code_of_its_own(monkeypatch, tmp_path, capsys):
    def run(value):
        return lambda **_: [judged("time", value, "x", at_most=1.5)]

    path = tmp_path / "rows.json"
    for value, code in ((1.0, 0), (2.0, 3)):
        monkeypatch.setattr(commitment, "run", run(value))
        assert main(["commitment", "--json", str(path)]) == code
        assert read_rows(path)[0].holds is (code == 0)
    assert "time" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nothing"], "access"), (["access", "--device", "abacus"], "abacus")],
)
def test_what_cannot_be_run_is_said_before_anything_runs(arguments, message, capsys):
    assert main([*arguments, "--quick"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("benchmarks: ") and message in error
    assert len(error.strip().splitlines()) <= 2
    known = {
        "access",
        "beside",
        "commitment",
        "explorer",
        "growth",
        "grpo",
        "memory",
        "patching",
        "report",
        "sayo",
        "suite",
        "traces",
        "training",
        "vista",
    }
    assert set(benches.BENCHES) == known


def test_a_file_that_cannot_be_written_is_said_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commitment, "run", lambda **_: pytest.fail("ran"))
    assert main(["commitment", "--json", str(tmp_path)]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_rows_of_another_file_are_refused(tmp_path):
    path = tmp_path / "other.json"
    path.write_text('[{"name": 1, "bars": 2}]')
    with pytest.raises(RunError, match="holds no bench rows"):
        read_rows(path)


@pytest.mark.long
def test_training_reports_times_of_both_ways_and_equal_gradients():
    rows = run_bench("training", quick=True)
    values = {row.name: row.value for row in rows}
    assert all(row.bar is None and row.holds is None for row in rows)
    for form in training.FORMS:
        name = f"largest relative difference of gradients to the eager way, {form}"
        assert values[name] <= 1e-4
        for model in ("testbed model", "small"):
            middle = values[f"time, both terms / CoT-SFT, {form}, {model}"]
            low, high = (values[f"{end} end of it, {form}, {model}"] for end in ("low", "high"))
            assert 0 < low <= middle <= high
            assert values[f"time, eager way / CoT-SFT, {form}, {model}"] > 0
    assert values["steps per item, small"] == training.QUICK.steps


def test_the_region_rewards_share_is_that_of_its_calls_in_the_step():
    rows = run_bench("sayo", quick=True)
    values = {row.name: row.value for row in rows}
    assert all(row.bar is None and row.holds is None for row in rows)
    for form in sayo.FORMS:
        for model in ("testbed model", "64 wide, 2 layers"):
            what = f"{form}, {model}"
            share = values[f"share of a GRPO step, region reward, {what}"]
            spent = values[f"time, region reward, {what}"] / values[f"time, GRPO step, {what}"]
            assert 0 < share < 1 and share == pytest.approx(spent)
            assert values[f"completions per step, {what}"] == 2


def test_a_step_of_the_training_bench_is_one_of_both_terms(small):
    """Each term, and only with its weight, changes the gradient that is compared and timed."""
    batch = training._wide_batch(small, training.QUICK)
    small.model.train()

    def gradient(**weights):
        config = replace(training.FORMS["ours"], commit_margin=0.0, **weights)
        training.Step(small, batch, config)()
        return small.model.get_input_embeddings().weight.grad.clone()

    try:
        off = {"lambda_vis": 0.0, "lambda_commit": 0.0}
        plain = gradient(**off)
        for name in off:
            assert not torch.allclose(gradient(**{**off, name: 1.0}), plain, rtol=1e-3)
    finally:
        small.model.eval()
        small.model.zero_grad()
