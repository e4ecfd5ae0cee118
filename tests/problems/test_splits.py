"""A split that is asked for is the one that is read, or a sentence names those there are."""

import json

import dataset_files
import pytest
from dataset_files import lines, made, stored, table
from real import needs_real_data, real_data

from attcot_analysis.cli import main
from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.data import check_data, read_data


def row(name):
    held = {"question": f"Which tool, {name}?"}
    for at, answer in enumerate(("screwdriver", "hammer", "pen"), start=1):
        held |= {f"image{at}": stored(at), f"answer{at}": answer}
    return held


def asked(root, split=None):
    """Which of the tables were read: their rows' questions say."""
    found = read_data(root, "vilp", split=split)
    return sorted({p.question.removeprefix("Which tool, ").rstrip("?") for p in found})


LAYOUTS = {
    "hub": ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet",
            "data/test-00000-of-00001.parquet"),
    "converted": ("default/train/0000.parquet", "default/train/0001.parquet",
                  "default/test/0000.parquet"),
    "files": ("train.parquet", "train_more.parquet", "test.parquet"),
    "tokens": ("ViLP_train_a.parquet", "ViLP_train_b.parquet", "ViLP_test_v1.parquet"),
    "folders": ("train/a.parquet", "train/latest.parquet", "test/b.parquet"),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_split_is_found_in_every_published_layout(tmp_path, layout):
    *train, test = LAYOUTS[layout]
    for name in (*train, test):
        table(tmp_path / "set" / name, [row(name)])
    assert asked(tmp_path / "set", "test") == [test]
    expected = sorted(train)[:1] if layout == "files" else sorted(train)  # A whole name goes first.
    assert asked(tmp_path / "set", "train") == asked(tmp_path / "set") == expected
    with pytest.raises(ProblemError, match=r"no split 'tset'; it has test, train: choose one"):
        asked(tmp_path / "set", "tset")
    assert asked((tmp_path / "set" / test), "test") == [test]
    with pytest.raises(ProblemError, match="no split 'train'; it has test"):
        asked(tmp_path / "set" / test, "train")


@pytest.mark.parametrize("name", ["latest.parquet", "contest-data.parquet", "testmini.parquet"])
def test_a_split_is_a_whole_word(tmp_path, name):
    table(tmp_path / "set" / name, [row(name)])
    with pytest.raises(ProblemError, match="no split 'test'"):
        asked(tmp_path / "set", "test")
    assert asked(tmp_path / "set") == [name]


def test_json_tables_have_splits_too(tmp_path):
    for split in ("train", "test"):
        dataset_files.save(tmp_path / "images" / f"{split}.png")
        held = {**row(split), **{f"image{n}": f"images/{split}.png" for n in (1, 2, 3)}}
        lines(tmp_path / f"{split}.jsonl", [held])
    assert asked(tmp_path, "test") == ["test"]
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "test.jsonl").unlink()
    (tmp_path / "vilp_test_v2.json").write_text(json.dumps([held]))
    assert asked(tmp_path, "test") == ["test"]


def test_splits_are_not_mixed_when_none_is_asked_for(tmp_path):
    for split in ("test", "validation"):
        table(tmp_path / f"{split}-00000-of-00001.parquet", [row(split)])
    with pytest.raises(ProblemError, match="several splits and none is 'train'; it has test, val"):
        asked(tmp_path)


def test_a_split_that_only_records_tell(tmp_path):
    table(tmp_path / "rows.parquet", [{**row(split), "split": split} for split in ("val", "test")])
    assert asked(tmp_path, "test") == ["test"]
    assert asked(tmp_path) == ["test", "val"]
    with pytest.raises(ProblemError, match="has no split 'train'; it has test, val"):
        asked(tmp_path, "train")


def test_rows_of_several_files_keep_their_ids_apart(tmp_path):
    for at in range(2):
        table(tmp_path / f"train-0000{at}-of-00002.parquet", [row(str(at)), row(f"{at}b")])
    found = check_data(tmp_path, "vilp")
    assert found.holds and found.coverage.n == 12


def test_one_file_of_ones_own_among_several(tmp_path):
    path = made(tmp_path, "jsonl")
    test = path.with_name("test.jsonl")
    test.write_text(path.read_text().splitlines()[0] + "\n")
    path.rename(path.with_name("train.jsonl"))
    assert len(list(read_data(path.parent, split="test"))) == 1
    assert main(["data", "check", str(test), "--split", "test"]) == 0
    for source in (path.parent, test):
        with pytest.raises(ProblemError, match="no split 'val'; it has test"):
            list(read_data(source, split="val"))
    (tmp_path / "set" / "test").mkdir(parents=True)
    (tmp_path / "set" / "train").mkdir()
    for split in ("test", "train"):
        (tmp_path / "set" / split / "items.jsonl").write_bytes(test.read_bytes())
        (tmp_path / "set" / split / "photos").symlink_to(path.parent / "photos")
    assert len(list(read_data(tmp_path / "set", split="test", outside=True))) == 1
    with pytest.raises(ProblemError, match="lies outside"):
        list(read_data(tmp_path / "set", split="test"))
    with pytest.raises(ProblemError, match="holds 2"):
        list(read_data(tmp_path / "set"))
    test.rename(path)
    with pytest.raises(ProblemError, match="does not say of what split"):
        list(read_data(path, split="test"))
    row = json.loads(path.read_text()) | {"split": "test"}
    lines(path, [row, row | {"id": "other", "split": "val"}])
    assert [one.id for one in read_data(path, split="val")] == ["other"]


@pytest.mark.parametrize(
    ("format", "there", "where"),
    [
        ("clevr", "val", "has no questions/CLEVR_tset_questions.json; it has val"),
        ("chartqa", "test", "no split 'tset'; it has test"),
        ("visual-cot", "val", "no split 'tset'; it has val"),
        ("a-okvqa", "val", "no split 'tset'; it has val"),
        ("vstar", "test", "no split 'tset'; it has test"),
        ("m3cot", "test", "no split 'tset'; it has test"),
        ("naturalbench", "train", "no split 'tset'; it has train"),
        ("vilp", "train", "no split 'tset'; it has train"),
    ],
)
def test_every_format_refuses_a_split_that_is_not_there(tmp_path, format, there, where):
    path = made(tmp_path, format)
    assert check_data(path, format, split=there).holds
    with pytest.raises(ProblemError, match=where):
        check_data(path, format, split="tset")


def test_chartqa_splits_of_the_whole_folder(tmp_path):
    split = dataset_files.chartqa(tmp_path)
    for name in ("train", "val"):
        other = tmp_path / name
        other.mkdir()
        (other / f"{name}_human.json").write_text((split / "test_human.json").read_text())
        (other / "png").symlink_to(split / "png")
    assert check_data(tmp_path, "chartqa").coverage.n == 3
    assert check_data(tmp_path, "chartqa", split="val").coverage.n == 2
    with pytest.raises(ProblemError, match="no split 'dev'; it has test, train, val"):
        check_data(tmp_path, "chartqa", split="dev")


@needs_real_data
def test_published_files_refuse_a_split_that_they_do_not_have():
    data = real_data()
    for name in ("clevr", "chartqa"):
        with pytest.raises(ProblemError, match=r"it has (train|test)"):
            check_data(data / name, name, split="val")
    assert check_data(data / "chartqa", "chartqa", split="test").holds
    assert check_data(data / "clevr", "clevr", split="train", limit=5).holds
