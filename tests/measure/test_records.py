"""Parts of a table on disk: merged by item, found out when damaged, held by one run at a time."""

import os
import re

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from processes import CONTEXT, begin_together

from attcot_analysis.errors import RunError
from attcot_analysis.runs import run as run_module
from attcot_analysis.runs.records import Part, Records, joined
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


@pytest.fixture
def records(run):
    """All items in three parts, written out of order; c has no rows, two items have arrays."""
    found = Records(run, "table")
    found.write(2, ["e"], Part(rows("e")))
    found.write(0, ["a", "b"], Part(rows("b", "a", "b"), {"b": array("b")}))
    found.write(1, ["c", "d"], Part(rows("d"), {"d": array("d")}))
    return found


def parts(run):
    return sorted((run.path / "parts" / "table").iterdir())


def test_merged_parts_equal_the_table_written_at_once(run, records):
    assert records.items() == set(ITEMS)
    merged = records.merge(ITEMS)
    run.write_table("whole", rows("a", "b", "b", "d", "e"))
    assert_frame_equal(merged, run.read_table("whole"), check_exact=True)
    assert_frame_equal(run.read_table("table"), merged)
    assert not (run.path / "parts").exists()


def test_rows_come_in_the_order_of_the_items_not_of_the_parts(records):
    assert records.merge(["e", "d", "c", "b", "a"])["item"].tolist() == ["e", "d", "b", "b", "a"]


def test_arrays_come_back_by_item(run, records):
    with pytest.raises(RunError, match="has no arrays of table"):
        records.arrays()
    records.merge(ITEMS)
    found = records.arrays()
    assert list(found) == ["b", "d"]
    for item, one in found.items():
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, array(item))
    assert list(records.arrays(["d"])) == ["d"]
    with pytest.raises(RunError, match=r"has no array of c; it has b, d, 2 in all"):
        records.arrays(["c"])


def test_tables_without_rows_are_joined_too():
    empty = rows().assign(other=1)
    assert_frame_equal(joined([empty, rows("c"), empty], ITEMS), rows("c"))
    assert list(joined([empty, rows()], ITEMS).columns) == list(empty.columns)


def test_every_item_must_be_there_exactly_once(run, records):
    with pytest.raises(RunError, match=r"lacks 2 of 7 items \(f, g\); run the same command again"):
        records.merge([*ITEMS, "f", "g"])
    with pytest.raises(RunError, match=r"000002-\w+\.parquet holds items that the run has not \(e"):
        records.merge(ITEMS[:-1])
    assert len(parts(run)) == 3
    records.write(9, ["f", "b"], Part(rows("b")))
    for look in (records.items, lambda: records.merge([*ITEMS, "f"])):
        with pytest.raises(RunError, match=r"000009\S+ and 000000\S+ beside it both hold item b"):
            look()
    assert "table" not in run.tables


@pytest.mark.parametrize(
    ("items", "part"),
    [
        ([], Part(rows())),
        (["a", "a"], Part(rows("a"))),
        (["a"], Part(rows("a", "b"))),
        (["a"], Part(rows("a"), {"b": array("b")})),
    ],
)
def test_a_part_holds_its_own_items_only(run, items, part):
    with pytest.raises(RunError, match="name every item of the batch once, and no other"):
        Records(run, "table").write(0, items, part)
    assert not (run.path / "parts").exists()


def flip(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_damage_anywhere_is_found_and_the_other_parts_are_kept(run, records):
    path = parts(run)[1]
    whole = path.read_bytes()
    places = np.linspace(0, len(whole) - 1, 40, dtype=int)
    damaged = [flip(whole, int(place)) for place in places]
    for content in [b"", whole[:-1], whole[: len(whole) // 2], *damaged]:
        path.write_bytes(content)
        for look in (records.items, lambda: records.merge(ITEMS)):
            with pytest.raises(RunError) as caught:
                look()
            message = str(caught.value)
            assert re.search(rf"{path} is damaged \(.*\); delete it to have its items", message)
            assert "\n" not in message
    path.unlink()
    assert records.items() == {"a", "b", "e"}
    records.write(1, ["c", "d"], Part(rows("d"), {"d": array("d")}))
    assert records.merge(ITEMS)["item"].tolist() == ["a", "b", "b", "d", "e"]


def test_damaged_arrays_are_found_before_and_after_the_merge(run, records):
    path = next((run.path / "arrays" / "table").glob("000000-*"))
    whole = path.read_bytes()
    path.write_bytes(flip(whole, len(whole) - 3))
    with pytest.raises(RunError, match=rf"{path} is damaged .* delete it and .*parts.*000000"):
        records.merge(ITEMS)
    path.write_bytes(whole)
    records.merge(ITEMS)
    path.write_bytes(flip(whole, 9))
    with pytest.raises(RunError, match=rf"{path} is damaged .* delete it and .*tables"):
        records.arrays()
    assert list(records.arrays(["d"])) == ["d"]


def test_arrays_that_no_part_knows_are_removed(run, records):
    stale = run.path / "arrays" / "table" / "000007-0123456789ab.safetensors"
    stale.write_bytes(b"x")
    (stale.parent / f".{stale.name}.part").write_bytes(b"x")
    records.merge(ITEMS)
    assert len(list(stale.parent.iterdir())) == 3


def test_a_full_disk_is_one_sentence_and_loses_nothing(run, records, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(RunError, match=r"\(f\) cannot be written .* No space left .* are kept"):
            records.write(3, ["f"], Part(rows()))
    assert [path.name[:6] for path in parts(run)] == ["000000", "000001", "000002"]
    assert records.items() == set(ITEMS)


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
