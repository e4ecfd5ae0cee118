"""How many items a batch can have: the arithmetic against what is really kept."""

import mmap
from dataclasses import replace

import pytest
import torch
from families import shared_family
from tiny import noise_image
from torch.profiler import ProfilerActivity, profile

from attcot_analysis import RunFolder, cli
from attcot_analysis.attention.packing import candidate_tokens
from attcot_analysis.attention.prefixes import Prefixes
from attcot_analysis.errors import MeasureError
from attcot_analysis.models import encode, encode_problem
from attcot_analysis.problems import save_problems
from attcot_analysis.runs.batches import estimated_lengths
from attcot_analysis.runs.measure import measure
from attcot_analysis.runs.memory import (
    MOST,
    filling,
    held,
    in_process,
    item_bytes,
    token_bytes,
)
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from attcot_lab.testbed.arrows import generate_arrows
from benchmarks.bench import Shape, random_mllm
from benchmarks.suite import TOWER, larger, responses


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "llava_next"])
def test_a_token_takes_what_is_kept_of_it(name):
    mllm = shared_family(name)
    prefixes = Prefixes(mllm)
    item = encode(mllm, noise_image(64, 96, 1), "What color is it?")
    prefixes.fill(mllm, [item])
    assert prefixes.n_bytes == token_bytes(mllm) * len(item.input_ids)


def test_a_larger_budget_has_larger_batches_until_no_item_is_left(testbed, tmp_path, monkeypatch):
    mllm, problems = testbed.mllm, testbed.problems[:4]
    monkeypatch.setattr("attcot_analysis.runs.memory.held", lambda device: 1000)

    def size(room):
        return filling(tmp_path, mllm, problems, 1000 + room, response=60)[0]

    lengths = estimated_lengths(problems)
    item = encode_problem(mllm, problems[lengths.index(max(lengths))])
    read = len(candidate_tokens(mllm, problems[0].candidates).tree.read_nodes)
    kept, passing = item_bytes(mllm, item, 60, read=read)
    each = sum(in_process(one, mllm.device) for one in (kept, passing))
    assert [size(n * each + 1) for n in range(6)] == [1, 1, 2, 3, 4, 4] and MOST > 4
    assert item_bytes(mllm, item, 120)[0] > kept and item_bytes(mllm, item, 60, 4)[0] > kept
    with pytest.raises(MeasureError, match="--max-memory states"):
        size(0)
    with pytest.raises(MeasureError, match="No problems"):
        filling(tmp_path, mllm, [], 10**12, response=60)
    openly = [replace(one, candidates=()) for one in problems]
    assert filling(tmp_path, mllm, openly, 10**12, response=60)[0] == 4
    assert filling(tmp_path, mllm, [openly[0], *problems[1:]], 10**12, response=60)[0] == 4


def _most_allocated(call):
    """Bytes of tensors at the peak, as an accelerator's allocator would count them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        call()
    events = [one for one in found.profiler.kineto_results.events() if one.name() == "[memory]"]
    now = most = 0
    for one in sorted(events, key=lambda one: one.start_ns()):
        now += one.nbytes()
        most = max(most, now)
    return most


_WIDE = Shape(hidden=512, layers=3, heads=8, kv_heads=2, intermediate=2048)
_NARROW = Shape(hidden=128, layers=12, heads=4, kv_heads=4, intermediate=512)


@pytest.mark.parametrize(
    ("shape", "depth", "items", "side", "words", "dtype"),
    [
        (_WIDE, 1, 2, 128, None, torch.float32),
        (_NARROW, 7, 4, 216, None, torch.float32),
        (_WIDE, 1, 2, 128, 30_000, torch.float32),
        (_WIDE, 1, 3, 216, None, torch.bfloat16),
    ],
    ids=["text", "tower", "words", "half"],
)
def test_a_batch_takes_what_the_plan_says(shape, depth, items, side, words, dtype):
    """Not more than a tenth above, and not less than half."""
    mllm = random_mllm(shape, dtype=dtype, vision={**TOWER, "depth": depth}, words=words)
    problems = [larger(one, side) for one in generate_arrows(items, seed=3)]
    written = responses(mllm, problems)
    longest = max(len(one.ids) for one in written.of.values())
    read = len(candidate_tokens(mllm, problems[0].candidates).tree.read_nodes)
    item = encode_problem(mllm, problems[0])
    planned = items * sum(item_bytes(mllm, item, longest, read=read))
    what = ("access", "commitment", "dependence")
    settings = {"generations": replace(written, foreign=False), "max_new_tokens": 4}
    taken = _most_allocated(lambda: measure(mllm, problems, what, batch_size=items, **settings))
    assert 0.9 <= planned / taken <= 2


def test_what_is_held_grows_with_what_is_allocated():
    before = held(torch.device("cpu"))
    # Mapped, since malloc may hand out again what it holds already.
    with mmap.mmap(-1, 2**26, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as kept:
        assert held(torch.device("cpu")) - before >= 0.9 * len(kept) or not before


def test_auto_states_its_batches_and_a_resumed_run_keeps_them(testbed, tmp_path, capsys):
    problems = save_problems(testbed.problems[:3], tmp_path / "problems")
    command = [
        "measure",
        str(shipped(TESTBED_MODEL)),
        str(problems),
        "--out",
        str(tmp_path / "run"),
    ]
    command += ["--device", "cpu", "--batch-size", "auto", "--max-new-tokens", "8", "--quiet"]
    command += ["--only", "answers"]
    assert cli.main(command) == 1
    assert "--max-memory" in capsys.readouterr().err
    assert cli.main([*command, "--max-memory", "64GiB"]) == 0
    assert "Batches of 3: an item takes" in capsys.readouterr().out
    assert RunFolder.open(tmp_path / "run").manifest["config"]["batch_size"] == 3
    # Less memory does not make another run of it.
    assert cli.main([*command, "--max-memory", "32GiB"]) == 0
    assert "Batches of 3, which this run was begun with." in capsys.readouterr().out
