"""Files from strangers: links in run folders, pictures that start programs, runs that name hubs."""

import io
import json
import os
import sys
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from attcot_analysis.errors import ModelError, ProblemError, RunError
from attcot_analysis.files import LOCK, locked, write_bytes, write_folder, write_whole
from attcot_analysis.models import load_mllm
from attcot_analysis.models.processors import check_config, check_processor
from attcot_analysis.plain_yaml import read_plain_yaml
from attcot_analysis.problems import load_problems, pictures, save_problems
from attcot_analysis.problems.data import check_data
from attcot_analysis.problems.data import records as tables
from attcot_analysis.problems.decisions import DECISIONS, keep_decisions
from attcot_analysis.problems.formats import response_format
from attcot_analysis.problems.pictures import FORMATS, open_picture
from attcot_analysis.runs.run import RunFolder
from attcot_lab.testbed.arrows import generate_arrows

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


SMALL = {"hidden_size": 8, "vocab_size": 100}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"text_config": {"num_hidden_layers": 10**6}},
            "has num_hidden_layers 1000000 in its",
        ),
        ({"vision_config": {"depth": 10**6}}, "has depth 1000000 in its vision_config"),
        ({"hidden_size": 0}, "has hidden_size 0 in its configuration, expected 1 to"),
        ({"image_token_id": -1}, "has the image token -1"),
        ({"text_config": SMALL, "vision_config": {"depth": 4}, "image_token_id": 7}, None),
        (SMALL, None),
    ],
)
def test_sizes_of_a_configuration_are_checked_before_memory_is_taken(config, said):
    made = SimpleNamespace(
        **{
            key: SimpleNamespace(**value) if isinstance(value, dict) else value
            for key, value in config.items()
        }
    )
    if said is None:
        check_config(made, "m")
        return
    with pytest.raises(ModelError, match=f"m {said}"):
        check_config(made, "m")


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ({"patch_size": 1}, "patches of 1 pixels and the model reads patches of 14"),
        ({"size": {"longest_edge": 4 * 10**8}}, "longest_edge 400000000 in its size"),
        ({"size": {"height": 448, "width": -1}}, "width -1 in its size"),
        ({"size": {"shortest_edge": 4 * 10**8}, "merge_size": 2}, "shortest_edge 400000000"),
        ({"size": {"shortest_edge": 65536, "longest_edge": 10**8}, "merge_size": 2}, None),
        ({"patch_size": 14, "size": {"longest_edge": 1456}}, None),
    ],
)
def test_a_processor_that_makes_too_much_of_a_picture_is_refused(images, said):
    config = SimpleNamespace(vision_config=SimpleNamespace(patch_size=14))
    processor = SimpleNamespace(image_processor=SimpleNamespace(**images))
    if said is None:
        check_processor(config, processor, "m")
        return
    with pytest.raises(ModelError, match=said):
        check_processor(config, processor, "m")


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"weight_map": {"a": "../other/model.safetensors"}}, "outside of its folder"),
        ({"weight_map": {"a": "/etc/model.safetensors"}}, "outside of its folder"),
        ({"weight_map": {"a": 7}}, "is damaged"),
        ([], "is damaged"),
        ({"weight_map": {"a": "model-00001-of-00001.safetensors"}}, "no processor class|cannot be"),
    ],
)
def test_shards_lie_in_their_folder(tmp_path, index, said):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "preprocessor_config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=said):
        load_mllm(tmp_path)


def test_yaml_of_strangers_stays_small(tmp_path):
    file = tmp_path / "own.yaml"
    bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    bomb += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    for text, said in (
        ("\n".join(bomb), r"line 2 has the alias \*a0"),
        ("[" * 100_000, "nested too deeply"),
        ("a: " + "x" * 2**20, "larger than"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    ):
        file.write_text(text)
        with pytest.raises(ProblemError, match=said):
            response_format(file)
    file.write_text("rate: 1e-4\nmore: [-2E+3, 1.5e2, 7, 0.5, 1e4x]\n")
    assert read_plain_yaml(file) == {"rate": 1e-4, "more": [-2000.0, 150.0, 7, 0.5, "1e4x"]}


def test_rows_that_unpack_to_gigabytes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_LARGEST_ROW", 10_000)
    file = tmp_path / "rows.parquet"
    for size, holds in ((100, True), (20_000, False)):
        pq.write_table(pa.table({"x": [f"{at}{'0' * size}" for at in range(3)]}), file)
        if holds:
            assert len(list(tables.read_table(file))) == 3
            continue
        assert file.stat().st_size < 5_000
        with pytest.raises(ProblemError, match=r"rows of 0 MB, expected at most 0"):
            list(tables.read_table(file))


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
