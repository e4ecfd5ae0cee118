"""Files from strangers: links in run folders, pictures that start programs, runs that name hubs."""

import io
import json
import os
import sys

import pandas as pd
import pytest
from PIL import Image

from attcot_analysis.errors import ProblemError, RunError
from attcot_analysis.files import LOCK, locked, write_bytes, write_folder, write_whole
from attcot_analysis.problems import generate_arrows, load_problems, pictures, save_problems
from attcot_analysis.problems.data import check_data
from attcot_analysis.problems.decisions import DECISIONS, keep_decisions
from attcot_analysis.problems.pictures import FORMATS, open_picture
from attcot_analysis.runs.run import RunFolder

links = pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")


@pytest.fixture
def precious(tmp_path):
    """A file of the user's outside of the run folder."""
    file = tmp_path / "home" / "precious.txt"
    file.parent.mkdir()
    file.write_text("mine")
    yield file
    assert file.read_text() == "mine"


def run_folder(path):
    return RunFolder.create(path, {"seed": 0, "config": {}, "models": {}, "data": {}})


@links
@pytest.mark.parametrize("name", ["manifest.json", ".manifest.json.part", "report.html"])
def test_a_file_that_is_a_link_is_replaced_not_followed(tmp_path, precious, name):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).symlink_to(precious)
    write_bytes(folder / name.strip(".").removesuffix(".part"), b"new")


@links
def test_a_part_laid_under_any_name_is_not_written_through(tmp_path, precious, monkeypatch):
    """Even one whose name was guessed."""
    monkeypatch.setattr("secrets.token_hex", lambda n: "guessed")
    (tmp_path / ".x.json.guessed.part").symlink_to(precious)
    with pytest.raises(FileExistsError):
        write_bytes(tmp_path / "x.json", b"new")


def test_files_have_the_permissions_that_the_user_gives(tmp_path):
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a.txt", b"a")
        (tmp_path / "b.txt").write_text("b")
    finally:
        os.umask(before)
    modes = {(tmp_path / name).stat().st_mode & 0o777 for name in ("a.txt", "b.txt")}
    assert len(modes) == 1
    write_whole(tmp_path / "c.txt", lambda part: part.write_text("c"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt", "c.txt"]


@links
def test_a_lock_that_is_a_link_is_refused(tmp_path, precious):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / LOCK).symlink_to(precious)
    with pytest.raises(RunError, match="is a link"), locked(folder):
        pass


@links
@pytest.mark.parametrize("name", ["tables", "arrays"])
def test_folders_of_a_run_that_are_links_are_refused(tmp_path, precious, name):
    run = run_folder(tmp_path / "run")
    (run.path / name).symlink_to(precious.parent, target_is_directory=True)
    with pytest.raises(RunError, match="is a link"):
        run.write_table("answers", pd.DataFrame({"item": ["a"]}))
        run.parts("answers")
    assert [path.name for path in precious.parent.iterdir()] == ["precious.txt"]


@links
def test_problems_are_not_written_through_a_link(tmp_path, precious, monkeypatch):
    problems = generate_arrows(2, seed=0)
    place = tmp_path / "downloads"
    place.mkdir()
    for name in (".set.part", ".set.old", f".set.{'0' * 16}.part"):
        (place / name).symlink_to(precious.parent, target_is_directory=True)
    save_problems(problems, place / "set")
    save_problems(problems[:1], place / "set", overwrite=True)
    assert len(load_problems(place / "set")) == 1
    # Decisions replace a link, too.
    link = place / "set" / DECISIONS
    link.symlink_to(precious.with_name("other.json"))
    (tmp_path / "decided.json").write_text(json.dumps({problems[0].id: {"twin": "reject"}}))
    keep_decisions(place / "set", tmp_path / "decided.json", [problems[0].id])
    assert not link.is_symlink() and link.is_file()
    # Even a part whose name was guessed.
    monkeypatch.setattr("secrets.token_hex", lambda n: "guessed")
    (place / ".new.guessed.part").symlink_to(precious.parent, target_is_directory=True)
    with pytest.raises(FileExistsError):
        save_problems(problems, place / "new")
    assert [path.name for path in precious.parent.iterdir()] == ["precious.txt"]


def test_what_a_killed_run_left_of_a_folder_is_removed_and_an_earlier_one_kept(tmp_path):
    (left := tmp_path / f".set.{'a' * 16}.part").mkdir()
    save_problems(generate_arrows(1, seed=0), tmp_path / "set")
    assert not left.exists()

    def fails(part):
        (part / "half").write_text("x")
        raise ProblemError("refused")

    with pytest.raises(ProblemError, match="refused"):
        write_folder(tmp_path / "set", fails)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert len(load_problems(tmp_path / "set")) == 1


@pytest.fixture
def records(tmp_path, monkeypatch):
    """Reads a record of one's own data that names a picture: the problem, or the sentence."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    data = tmp_path / "data"
    data.mkdir()
    Image.new("RGB", (8, 8)).save(data / "own.png")

    def read(name, **options):
        record = {"image": name, "question": "Which?", "answer": "a", "candidates": ["a", "b"]}
        (data / "records.jsonl").write_text(json.dumps(record))
        checked = check_data(data / "records.jsonl", **options)
        return checked.faults[0] if checked.faults else None

    return read


def test_pictures_outside_of_the_data_set_are_refused(tmp_path, records):
    home = tmp_path / "home"
    home.mkdir()
    Image.new("RGB", (8, 8)).save(home / "secret.png")
    names = ["../home/secret.png", "..\\home\\secret.png", str(home / "secret.png")]
    held = [{"bytes": None, "path": name} for name in names]
    if sys.platform != "win32":
        (tmp_path / "data" / "link.png").symlink_to(home / "secret.png")
        (tmp_path / "data" / "sub").symlink_to(home, target_is_directory=True)
        names += ["link.png", "sub/secret.png"]
    for name in (*names, *held):
        said = records(name)
        assert said is not None and "lies outside of the data set's folder" in said, name
        assert "--allow-outside" in said
        assert records(name, outside=True) is None
        # Named by the user, not by the records.
        assert records(name, images=home) is None
    for name in ("own.png", "./own.png", "../data/own.png", str(tmp_path / "data" / "own.png")):
        assert records(name) is None


@links
def test_links_inside_of_the_cache_of_the_hub_are_followed(tmp_path, records):
    blobs = tmp_path / "hub" / "hub" / "datasets--a--b" / "blobs"
    blobs.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(blobs / "0a", format="PNG")
    (tmp_path / "data" / "linked.png").symlink_to(blobs / "0a")
    assert records("linked.png") is None


@links
def test_a_problem_folder_shows_no_picture_from_elsewhere(tmp_path):
    (problem,) = generate_arrows(1, seed=0)
    save_problems([problem], tmp_path / "set")
    (file,) = (tmp_path / "set" / "images").glob(f"{problem.id}.png")
    file.rename(tmp_path / "secret.png")
    file.symlink_to(tmp_path / "secret.png")
    for keep in (True, False):
        with pytest.raises(ProblemError, match="lies outside of the data set's folder"):
            load_problems(tmp_path / "set", keep_pictures=keep)
    file.unlink()
    (tmp_path / "secret.png").rename(file.with_name("renamed"))
    file.symlink_to("renamed")
    assert len(load_problems(tmp_path / "set")) == 1


@pytest.mark.parametrize("name", ["x.png", "x.eps"])
def test_postscript_starts_no_program(tmp_path, monkeypatch, name):
    file = tmp_path / name
    Image.new("RGB", (8, 8)).save(file, format="EPS")

    def started(*arguments, **options):
        raise AssertionError("a program was started")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", started)
    with pytest.raises(ProblemError, match="it is no PNG, JPEG, WEBP, GIF, TIFF or BMP"):
        open_picture(file, "The picture")
    with pytest.raises(AssertionError, match="a program"):
        Image.open(file).load()


@pytest.mark.parametrize("form", FORMATS)
def test_formats_are_read_by_content(form):
    held = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 10, 10)).save(held, format=form)
    held.seek(0)
    assert open_picture(held, "The picture").size == (8, 8)
    assert pictures.FORMATS == FORMATS
