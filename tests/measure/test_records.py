"""Parts of a table on disk: read as one, found out when damaged, held by one run at a time."""

import os
import re

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from processes import CONTEXT, begin_together

from attcot_analysis.errors import RunError
from attcot_analysis.runs import run as run_module
from attcot_analysis.runs.parts import Part, joined
from attcot_analysis.runs.run import RunFolder

ITEMS = ["a", "b", "c", "d", "e"]


def rows(*items):
    """One row per letter, with every kind of column that the measurements have."""
    return pd.DataFrame(
        {
            "item": pd.Series(items, dtype=str),
            "text": [None if item in "ab" else f"text {item}" for item in items],
            "habitual": pd.array([None if item in "ab" else True for item in items], "boolean"),
            "ids": [[ord(item)] * ITEMS.index(item) for item in items],
            "x": [float("nan") if item == "a" else ord(item) / 7 for item in items],
            "n": list(map(ord, items)),
        }
    )


def array(item):
    return np.full((2, ITEMS.index(item)), ord(item), dtype=np.float32)


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run", {"seed": 0})


BATCHES = [[0, 1], [2, 3], [4]]


@pytest.fixture
def records(run):
    """All items in three parts, written out of order; c has no rows, two items have arrays."""
    found = run.parts("table")
    found.write(2, BATCHES, ITEMS, Part(rows("e")))
    found.write(0, BATCHES, ITEMS, Part(rows("b", "a", "b"), {"b": array("b")}))
    found.write(1, BATCHES, ITEMS, Part(rows("d"), {"d": array("d")}))
    return found


def parts(run):
    return sorted((run.path / "tables" / "table").iterdir())


def test_parts_equal_the_table_written_at_once(run, records):
    assert records.missing(BATCHES, ITEMS) == [] and records.complete
    found = run.read_table("table")
    run.write_table("whole", rows("a", "b", "b", "d", "e"))
    assert_frame_equal(found, run.read_table("whole"), check_exact=True)
    assert run.tables == ["table", "whole"] and run.has("table")
    blocks = list(run.read_blocks("table"))
    assert [set(block["item"]) for block in blocks] == [{"a", "b"}, {"d"}, {"e"}]
    assert_frame_equal(joined(blocks, ITEMS), found)


def test_rows_come_in_the_order_of_the_items_not_of_the_parts(run):
    found, batches = run.parts("table"), [[3, 0], [4, 1], [2]]
    order = ["e", "d", "c", "b", "a"]
    for number, batch in enumerate(batches):
        held = [order[place] for place in batch]
        found.write(number, batches, order, Part(rows(*held)))
    assert run.read_table("table")["item"].tolist() == order


def test_arrays_come_back_by_item(run, records):
    with pytest.raises(RunError, match="has no arrays of other"):
        run.read_arrays("other")
    found = run.read_arrays("table")
    assert list(found) == ["b", "d"]
    for item, one in found.items():
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, array(item))
    assert list(run.read_arrays("table", ["d"])) == ["d"]
    with pytest.raises(RunError, match=r"has no array of c; it has b, d, 2 in all"):
        run.read_arrays("table", ["c"])


def test_tables_without_rows_are_joined_too():
    empty = rows().assign(other=1)
    assert_frame_equal(joined([empty, rows("c"), empty], ITEMS), rows("c"))
    assert list(joined([empty, rows()], ITEMS).columns) == list(empty.columns)


def test_a_table_without_any_rows_keeps_its_columns(run):
    for number in range(2):
        run.parts("none").write(number, [[0], [1]], ITEMS[:2], Part(rows()))
    found = run.read_table("none")
    assert len(found) == 0 and list(found) == list(rows())
    assert [len(block) for block in run.read_blocks("none")] == [0]


def test_every_item_must_be_there_exactly_once(run, records):
    with pytest.raises(RunError, match=r"00002-of-00003-\w+\.parquet holds items .*\(e"):
        records.missing(BATCHES, ITEMS[:-1])
    with pytest.raises(RunError, match="made with another batch_size"):
        records.missing([[0, 1], [2, 3, 4]], ITEMS)
    assert len(parts(run)) == 3
    records.write(1, BATCHES, ITEMS, Part(rows("c", "d")))
    for look in (lambda: records.missing(BATCHES, ITEMS), lambda: run.read_table("table")):
        with pytest.raises(RunError, match=r"00001\S+ and 00001\S+ beside it both hold item c"):
            look()
    for path in parts(run)[1:3]:
        path.unlink()
    assert records.missing(BATCHES, ITEMS) == [1] and "table" not in run.tables
    with pytest.raises(RunError, match=r"lacks 1 of 3 parts; run the same command again"):
        run.read_table("table")


@pytest.mark.parametrize(
    ("batch", "part"),
    [
        ([], Part(rows())),
        ([0, 0], Part(rows("a"))),
        ([0], Part(rows("a", "b"))),
        ([0], Part(rows("a"), {"b": array("b")})),
    ],
)
def test_a_part_holds_its_own_items_only(run, batch, part):
    with pytest.raises(RunError, match="name every item of the batch once, and no other"):
        run.parts("table").write(0, [batch], ITEMS, part)
    assert not (run.path / "tables").exists()


def flip(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_damage_anywhere_is_found_and_the_other_parts_are_kept(run, records):
    path = parts(run)[1]
    whole = path.read_bytes()
    places = np.linspace(0, len(whole) - 1, 40, dtype=int)
    damaged = [flip(whole, int(place)) for place in places]
    for content in [b"", whole[:-1], whole[: len(whole) // 2], *damaged]:
        path.write_bytes(content)
        for look in (lambda: records.missing(BATCHES, ITEMS), lambda: run.read_table("table")):
            with pytest.raises(RunError) as caught:
                look()
            message = str(caught.value)
            assert re.search(
                rf"{path} is damaged \(.*\); delete it to have it computed again", message
            )
            assert "\n" not in message
    path.unlink()
    assert records.missing(BATCHES, ITEMS) == [1]
    records.write(1, BATCHES, ITEMS, Part(rows("d"), {"d": array("d")}))
    assert run.read_table("table")["item"].tolist() == ["a", "b", "b", "d", "e"]


def test_damaged_arrays_are_found(run, records):
    path = next((run.path / "arrays" / "table").glob("00000-*"))
    whole = path.read_bytes()
    for at in (len(whole) - 3, 9):
        path.write_bytes(flip(whole, at))
        with pytest.raises(RunError, match=rf"{path} is damaged .* delete it and .*tables.*00000"):
            run.read_arrays("table")
    assert list(run.read_arrays("table", ["d"])) == ["d"]


def test_arrays_that_no_part_knows_are_removed(run, records):
    stale = run.path / "arrays" / "table" / "00007-of-00008-0123456789ab.safetensors"
    stale.write_bytes(b"x")
    (stale.parent / f".{stale.name}.part").write_bytes(b"x")
    records.tidy()
    assert len(list(stale.parent.iterdir())) == 2


def test_parts_of_different_types_become_one_table(run):
    pieces = [
        pd.DataFrame({"item": ["a"], "word": [None], "n": [1], "ids": [[]]}),
        pd.DataFrame({"item": ["b"], "word": ["w"], "n": [float("nan")], "ids": [[3]]}),
    ]
    for number, piece in enumerate(pieces):
        run.parts("t").write(number, [[0], [1]], ITEMS[:2], Part(piece))
        run.parts("odd").write(
            number, [[0], [1]], ITEMS[:2], Part(piece.assign(n=["x", 1][number]))
        )
    found = run.read_table("t")
    assert found["item"].tolist() == ["a", "b"] and found["ids"].tolist() == [[], [3]]
    assert found["word"].isna().tolist() == [True, False]
    assert found["n"].isna().tolist() == [False, True]
    assert [block.dtypes.equals(found.dtypes) for block in run.read_blocks("t")] == [True, True]
    with pytest.raises(RunError, match=r"make no table .*Field n has incompatible types"):
        run.read_table("odd")


def test_a_full_disk_is_one_sentence_and_loses_nothing(run, records, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(RunError, match=r"\(f\) cannot be written .* No space left .* are kept"):
            records.write(3, [*BATCHES, [5]], [*ITEMS, "f"], Part(rows()))
    assert [path.name[:5] for path in parts(run)] == ["00000", "00001", "00002"]
    assert records.missing(BATCHES, ITEMS) == []


def test_one_run_at_a_time(run):
    with run.locked():
        for other in (run, RunFolder.open(run.path)):
            with (
                pytest.raises(RunError, match=rf"written to by another process .*{os.getpid()}"),
                other.locked(),
            ):
                pass
    with pytest.raises(KeyError), run.locked():
        raise KeyError
    (run.path / ".lock").write_text("99999999\n")
    with run.locked():
        assert (run.path / ".lock").read_text() == f"{os.getpid()}\n"


def test_of_two_that_begin_a_folder_one_does(tmp_path, monkeypatch):
    """The other one comes between the look at the folder and what follows it."""
    looked, others = run_module._occupied, [{"seed": 2}]

    def look(path):
        found = looked(path)
        if others:
            RunFolder.create(path, others.pop(), resume=True)
        return found

    monkeypatch.setattr(run_module, "_occupied", look)
    with pytest.raises(RunError, match="its seed is 2, now it is 1"):
        RunFolder.create(tmp_path / "run", {"seed": 1}, resume=True)
    assert RunFolder.open(tmp_path / "run").manifest["seed"] == 2
    others.append({"seed": 2})
    with pytest.raises(RunError, match="holds a run already"):
        RunFolder.create(tmp_path / "again", {"seed": 2})


def test_no_lock_is_held_over_the_manifest_of_another(tmp_path):
    barrier, pipes, children = CONTEXT.Barrier(2), [], []
    for seed in (1, 2):
        ours, theirs = CONTEXT.Pipe(duplex=False)
        arguments = (tmp_path, seed, 100, barrier, theirs)
        children.append(CONTEXT.Process(target=begin_together, args=arguments))
        children[-1].start()
        pipes.append(ours)
    found = [pipe.recv() for pipe in pipes]
    for child in children:
        child.join(60)
    assert {*found[0]} <= {1, None} and {*found[1]} <= {2, None}
    assert any(found[0] + found[1])


def test_what_is_no_run_gets_no_lock_file(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="is no run"):
        RunFolder.create(tmp_path, {"seed": 0}, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_without_locks_is_used_with_a_warning(run, monkeypatch):
    def fail(_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("attcot_analysis.files._lock", fail)
    with pytest.warns(UserWarning, match="without locks"), run.locked():
        pass


def test_a_run_killed_before_its_manifest_can_be_begun_again(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".manifest.json.part").write_text("{")
    (folder / ".lock").touch()
    run = RunFolder.create(folder, {"seed": 1}, resume=True)
    assert run.manifest["seed"] == 1


def test_another_number_of_processes_is_noted_and_no_reason_to_refuse(tmp_path):
    for count in (1, 2, 2, 1):
        run = RunFolder.create(tmp_path / "run", {"seed": 0, "processes": count}, resume=True)
    assert run.manifest["processes"] == 1
    assert [note["processes"] for note in run.manifest["resumed"]] == [2, 1]
