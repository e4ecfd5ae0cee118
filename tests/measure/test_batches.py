"""Batches by length, and halves of batches that do not fit into memory."""

import itertools
import random
import re
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from processes import FAKE_ITEMS, FakeStages
from tiny import noise_image

from attcot_analysis.cli import main
from attcot_analysis.errors import MeasureError, ModelError
from attcot_analysis.models.load import memory_limit, out_of_memory, parse_memory
from attcot_analysis.problems import render_response
from attcot_analysis.runs import measure as suite
from attcot_analysis.runs.batches import (
    WINDOW,
    Halving,
    by_length,
    estimated_lengths,
    in_order,
    note_halved,
)
from attcot_analysis.runs.measure import ResponseStages, Settings, Stages, measure
from attcot_analysis.runs.parts import Part
from attcot_analysis.runs.run import RunFolder
from attcot_lab.testbed.arrows import generate_arrows

# --- which items go together --------------------------------------------------------------------


@pytest.mark.parametrize(("n", "size"), [(1, 4), (7, 2), (100, 3), (100, 200), (64, 4)])
def test_every_item_is_in_one_batch_and_windows_stay_apart(n, size):
    lengths = [random.Random(n).uniform(0, 2000) for _ in range(n)]
    batches = by_length(lengths, size)
    assert sorted(itertools.chain(*batches)) == list(range(n))
    assert [len(batch) for batch in batches] == [len(batch) for batch in in_order(n, size)]
    for number in range(0, len(batches), WINDOW):
        found = sorted(itertools.chain(*batches[number : number + WINDOW]))
        start = number * size
        assert found == list(range(start, min(start + WINDOW * size, n)))


def test_batches_by_length_pad_less_and_begin_with_the_longest():
    draw = random.Random(0)
    lengths = [draw.choice((300, 900, 2700)) + draw.uniform(0, 15) for _ in range(320)]

    def padded(batches):
        longest = [max(lengths[at] for at in batch) * len(batch) for batch in batches]
        return sum(longest) / sum(lengths) - 1

    batches = by_length(lengths, 10)
    assert padded(in_order(320, 10)) > 1 and padded(batches) < 0.2
    for window in range(0, len(batches), WINDOW):
        assert max(lengths[at] for at in batches[window]) >= 2700


def test_items_of_like_length_stay_in_their_order():
    assert by_length([100.0, 101.0, 102.0, 103.0], 2) == [[0, 1], [2, 3]]
    assert by_length([0.0, 15.0, 16.0, 31.0], 2) == [[2, 3], [0, 1]]


def test_lengths_are_estimated_from_picture_question_and_response():
    problems = generate_arrows(2, seed=0)
    bare, whole = estimated_lengths(problems), estimated_lengths(problems, [[1] * 7, []])
    width, height = problems[0].image.size
    assert bare[0] == pytest.approx(width * height / 784 + len(problems[0].question) / 4)
    assert [b - a for a, b in zip(bare, whole, strict=True)] == pytest.approx([7, 0])
    both = replace(problems[0], more_images=(noise_image(280, 140),))
    assert estimated_lengths([both])[0] - bare[0] == pytest.approx(50)


def same(found, expected):
    """Equal but for what stands for a missing value."""
    found, expected = (
        table.astype(object).where(table.notna(), "missing") for table in (found, expected)
    )
    assert_frame_equal(found, expected)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(suite, "Stages", FakeStages)
    monkeypatch.setattr(suite, "ResponseStages", FakeStages)
    return generate_arrows(FAKE_ITEMS, seed=0)


def test_tables_do_not_depend_on_the_batches(fake, tmp_path, monkeypatch):
    plain = measure(None, fake, batch_size=3)
    lengths = random.Random(0).sample(range(0, 9000, 100), FAKE_ITEMS)
    monkeypatch.setattr(suite, "estimated_lengths", lambda *_: lengths)
    run = RunFolder.create(tmp_path / "run", {"seed": 0})
    for kept in (None, run):
        tables = measure(None, fake, batch_size=2, run=kept)
        assert list(tables) == list(plain)
        for name, table in tables.items():
            same(table, plain[name])


# --- halves -------------------------------------------------------------------------------------

ITEMS = [f"i{at}" for at in range(11)]


def rows(places):
    return Part(
        pd.DataFrame({"item": [ITEMS[at] for at in places for _ in range(at % 3)], "x": 1.5}),
        {ITEMS[at]: np.full(2, at) for at in places},
    )


@pytest.mark.parametrize("fits", [1, 2, 3, 5, 11])
def test_halves_give_what_the_whole_gives(fits):
    asked = []

    def make(places):
        asked.append(len(places))
        if len(places) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return rows(places)

    halving, places = Halving(), list(range(11))
    with pytest.warns(UserWarning, match="goes on with") if fits < 11 else _nothing():
        found = halving("access", make, places, ITEMS)
    whole = rows(places)
    assert_frame_equal(found.rows, whole.rows)
    assert found.arrays.keys() == whole.arrays.keys()
    if fits < 11:
        # What does not fit is tried once, and not again in later batches.
        assert max(asked[-2:]) <= fits and halving.sizes["access"] <= fits
        asked.clear()
        halving("access", make, places, ITEMS)
        assert max(asked) <= fits
    else:
        assert halving.sizes == {} and asked == [11]


class _nothing:
    def __enter__(self):
        return None

    def __exit__(self, *_):
        return None


@pytest.mark.filterwarnings("ignore:Out of memory")
def test_an_item_that_does_not_fit_alone_is_named():
    def make(places):
        if 4 in places:
            raise RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory")
        return rows(places)

    with pytest.raises(MeasureError, match=r"Item i4 alone does not fit into memory \(access\)"):
        Halving()("access", make, list(range(11)), ITEMS)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def make(places):
        raise RuntimeError("expected scalar type Half but found Float")

    with pytest.raises(RuntimeError, match="expected scalar type"):
        Halving()("access", make, [0, 1], ITEMS)


@pytest.mark.filterwarnings("ignore:Out of memory")
def test_a_model_in_halves_measures_the_same(random_mllm):
    problems = generate_arrows(3, seed=0)
    written = [render_response(problem.steps, problem.answer) for problem in problems]
    responses = [
        random_mllm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in written
    ]
    settings = Settings(edits=("twin",), batch_size=3, max_new_tokens=2)
    stages = Stages(random_mllm, problems, settings)
    rest = ResponseStages(stages, responses)

    def full(module, args, kwargs):
        if len(kwargs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    for name, make in (
        ("answers", lambda at: stages.answers(at, "cot")),
        ("commitment", rest.commitment),
        ("access", rest.access),
        ("dependence", rest.dependence),
    ):
        whole = make([0, 1, 2]).rows
        halving = Halving()
        hook = random_mllm.model.register_forward_pre_hook(full, with_kwargs=True)
        try:
            halves = halving(name, make, [0, 1, 2], [problem.id for problem in problems]).rows
        finally:
            hook.remove()
        assert halving.sizes == {name: 2}
        whole, halves = (
            table.sort_values("item", kind="stable", ignore_index=True) for table in (whole, halves)
        )
        assert_frame_equal(halves, whole, check_exact=False, rtol=1e-4, atol=1e-5)


def test_the_run_says_what_was_halved(fake, tmp_path, monkeypatch):
    class Tight(FakeStages):
        def access(self, at):
            if len(at) > 2:
                raise MemoryError
            return super().access(at)

    plain = measure(None, fake, batch_size=4)
    monkeypatch.setattr(suite, "ResponseStages", Tight)
    run = RunFolder.create(tmp_path / "run", {"seed": 0})
    with pytest.warns(UserWarning, match="access goes on with 2 items at a time"):
        tables = measure(None, fake, batch_size=4, run=run)
    for name, table in tables.items():
        same(table, plain[name])
    assert run.manifest["halved"] == {"access": 2}
    note_halved(run, "access", [None, 3])
    assert run.manifest["halved"] == {"access": 2}
    note_halved(run, "lens", [4, None, 1])
    assert run.manifest["halved"] == {"access": 2, "lens": 1}
    assert RunFolder.create(run.path, {"seed": 0}, resume=True).manifest["halved"]["lens"] == 1


# --- limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "amount"),
    [("20GiB", 20 * 2**30), ("800 MB", 8 * 10**8), ("1.5g", 1.5e9), ("4096", 4096), ("2k", 2000)],
)
def test_amounts_of_memory(text, amount):
    assert parse_memory(text) == amount


@pytest.mark.parametrize("text", ["", "much", "-1G", "0", "3GBs", "1e9"])
def test_what_is_no_amount_of_memory_is_refused(text):
    with pytest.raises(ModelError, match=re.escape(repr(text))):
        parse_memory(text)


def test_the_command_refuses_what_is_no_amount_before_it_loads_anything(tmp_path, capsys):
    given = ["measure", "no/such/model", str(tmp_path), "--out", str(tmp_path / "run")]
    assert main([*given, "--max-memory", "much"]) == 1
    assert capsys.readouterr().err.startswith("attcot: 'much' is not an amount of memory")


def test_a_limit_makes_too_much_fail_as_out_of_memory_and_ends():
    if not sys.platform.startswith("linux"):
        with pytest.raises(ModelError, match="cannot be limited"), memory_limit(10**9, "cpu"):
            pass
        return
    with open("/proc/self/status", encoding="ascii") as status:
        taken = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
    with memory_limit(taken + 2**28, "cpu"):
        assert torch.empty(2**24, dtype=torch.uint8).numel()
        with pytest.raises(RuntimeError) as caught:
            torch.empty(2**31, dtype=torch.uint8)
    assert out_of_memory(caught.value)
    assert torch.empty(2**31, dtype=torch.uint8).numel()
    with pytest.raises(ModelError, match="cannot be used here"), memory_limit(1, "meta"):
        pass
