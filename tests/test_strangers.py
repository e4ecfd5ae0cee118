"""Files from strangers: links in run folders, pictures that start programs, runs that name hubs."""

import gzip
import hashlib
import io
import json
import os
import random
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults import survives
from fuzzing import at_most, harmed
from PIL import Image

from attcot_analysis.errors import (
    LayoutError,
    ModelError,
    ProblemError,
    RunError,
    TrainingError,
    writing,
)
from attcot_analysis.files import LOCK, locked, write_bytes, write_folder, write_whole
from attcot_analysis.models import encode, load_mllm
from attcot_analysis.models.processors import check_config, check_processor, settings_file
from attcot_analysis.plain_yaml import read_plain_yaml
from attcot_analysis.problems import load_problems, pictures, save_problems
from attcot_analysis.problems.data import check_data, read_data
from attcot_analysis.problems.data import records as tables
from attcot_analysis.problems.decisions import DECISIONS, keep_decisions, read_decisions
from attcot_analysis.problems.formats import response_format
from attcot_analysis.problems.pictures import FORMATS, open_picture
from attcot_analysis.runs import table_checks
from attcot_analysis.runs.parts import Part
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.runs.server import ask_server
from attcot_analysis.shipped import shipped
from attcot_analysis.train.checkpoints import check_checkpoint, new_folder, open_unfinished
from attcot_lab.claims.table import read_claims, read_values, run_facts
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
    with pytest.raises(RunError, match="File exists"):
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a folder that takes no files")
def test_a_folder_that_takes_no_files_is_said():
    for path in (Path("/proc/new"), Path("/proc/self/fd/new/run")):
        with pytest.raises(RunError, match="cannot be written"), locked(path):
            pass
        with pytest.raises(RunError, match="cannot be written"):
            write_bytes(path / "x", b"")
    with pytest.raises(FileNotFoundError), writing(Path("/tmp/x")):
        Path("/another/file").read_bytes()


@links
@pytest.mark.parametrize("kind", ["pipe", "folder", "loop"])
@pytest.mark.parametrize(
    "name",
    [
        *(
            "run/manifest.json",
            "run/mine.json",
            "run/tables/mine/*.parquet",
            "run/tables/own.parquet",
        ),
        *(
            "run/arrays/mine/*.safetensors",
            "set/problems.jsonl",
            "set/edits.json",
            "set/images/arrows-test-0-00000.png",
        ),
        *("check/unfinished.json", "check/complete", "check/trainer_state.json"),
    ],
)
def test_what_is_no_file_is_not_waited_for(tmp_path, name, kind):
    """In a folder of somebody else every name may be a pipe, which nobody ever writes to."""
    (problem,) = generate_arrows(1, seed=0)
    save_problems([problem], tmp_path / "set")
    (tmp_path / "set" / DECISIONS).write_text("{}")
    run = run_folder(tmp_path / "run")
    rows = pd.DataFrame({"item": ["a"]})
    run.parts("mine").write(0, [[0]], ["a"], Part(rows, {"a": np.ones(2)}))
    run.write_table("own", rows)
    run.write_json("mine", {})
    (tmp_path / "check").mkdir()
    for one in ("unfinished.json", "complete", "trainer_state.json"):
        (tmp_path / "check" / one).write_text("{}")
    (path,) = tmp_path.glob(name)
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path.name)
    with at_most(20):
        for call in (
            lambda: RunFolder.open(run.path).manifest,
            lambda: run.read_json("mine"),
            lambda: run.read_table("mine"),
            lambda: run.read_table("own"),
            lambda: run.read_arrays("mine"),
            lambda: load_problems(tmp_path / "set"),
            lambda: load_problems(tmp_path / "set", keep_pictures=False)[0].image,
            lambda: open_unfinished(tmp_path / "check", {}),
            lambda: check_checkpoint(tmp_path / "check"),
        ):
            survives(call)


@pytest.mark.parametrize(
    "held", [[], {"a": 1}, {"a": {"twin": []}}, {"a": {"twin": "x"}}, "[" * 10**5]
)
def test_decisions_of_any_form_are_one_sentence(tmp_path, held):
    (tmp_path / "own.json").write_text(held if isinstance(held, str) else json.dumps(held))
    with pytest.raises(ProblemError, match="decisions on edits"):
        read_decisions(tmp_path / "own.json")


@links
@pytest.mark.parametrize("name", ["cells", "models", "errors", "cells/a.b.c-0", "nowhere"])
def test_a_run_that_is_resumed_holds_no_folder_from_elsewhere(tmp_path, precious, name):
    run = run_folder(tmp_path / "run")
    (run.path / name).parent.mkdir(exist_ok=True)
    target = precious.parent if name != "nowhere" else tmp_path / "nowhere"
    (run.path / name).symlink_to(target, target_is_directory=True)
    with pytest.raises(RunError, match=f"{name} is a link"):
        RunFolder.create(run.path, run.manifest, resume=True)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "checkpoint-2").symlink_to(target, target_is_directory=True)
    with pytest.raises(RunError, match="checkpoint-2 is a link"):
        open_unfinished(tmp_path / "unfinished", {})
    (tmp_path / "model").symlink_to(target / "new")
    with pytest.raises(TrainingError, match="exists already"):
        new_folder(tmp_path / "model")


@links
def test_answers_of_a_server_are_not_added_to_a_file_elsewhere(tmp_path, precious):
    (tmp_path / "out.jsonl").symlink_to(precious)
    with pytest.raises(RunError, match=r"out\.jsonl is a link"):
        ask_server("http://127.0.0.1:9", [], tmp_path / "out.jsonl")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RunError, match="pipe is no file"):
        ask_server("http://127.0.0.1:9", [], tmp_path / "pipe")


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
    with pytest.raises(ProblemError, match="File exists"):
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
    made.get_text_config = lambda: getattr(made, "text_config", made)
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
        ({"crop_size": {"height": 10**9, "width": 1}}, "height 1000000000 in its crop_size"),
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
    ("files", "in_force"),
    [
        ({"processor_config.json": {"image_processor": {}}}, "processor_config.json"),
        ({"processor_config.json": {"processor_class": "X"}}, "preprocessor_config.json"),
        ({"processor_config.json": []}, "preprocessor_config.json"),
        ({}, "preprocessor_config.json"),
    ],
)
def test_the_processor_s_file_that_counts_is_named(tmp_path, files, in_force):
    """The one that transformers reads: which setting a picture is prepared by shows it."""
    # After our models package, which makes torchvision importable.
    from transformers.image_processing_base import ImageProcessingMixin

    settings = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    for name, held in files.items():
        if held and "image_processor" in held:
            held = {"image_processor": {**settings, "size": {"shortest_edge": 64}}}
        (tmp_path / name).write_text(json.dumps(held))
    assert settings_file(str(tmp_path)) == in_force
    if files.get("processor_config.json") != []:
        read, _ = ImageProcessingMixin.get_image_processor_dict(str(tmp_path))
        wanted = 64 if in_force == "processor_config.json" else 32
        assert read["size"] == {"shortest_edge": wanted}
    images = SimpleNamespace(size={"height": -1, "width": 1})
    with pytest.raises(ModelError, match=f"correct it in its {in_force}"):
        check_processor(None, SimpleNamespace(image_processor=images), str(tmp_path))


@pytest.mark.parametrize("error", [TypeError("no number"), AttributeError("get"), KeyError("a")])
def test_a_processor_of_wrong_settings_is_one_sentence(random_mllm, error):
    class Fails:
        def __getattr__(self, name):
            return getattr(random_mllm.processor, name)

        def __call__(self, *given, **options):
            raise error

    mllm = replace(random_mllm, processor=Fails())
    with pytest.raises(LayoutError, match="The processor refused the prompt or its image: "):
        encode(mllm, Image.new("RGB", (32, 32)), "What?")


def test_an_adapter_alone_loads_no_model_from_elsewhere(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "preprocessor_config.json").write_text("{}")
    named = {"base_model_name_or_path": "somebody/private", "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(named))
    with pytest.raises(ModelError, match="a LoRA adapter and not the weights it is for; merge it"):
        load_mllm(tmp_path)


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


@links
@pytest.mark.parametrize("name", ["config.json", "chat_template.jinja", "model.safetensors"])
def test_no_pipe_of_a_checkpoint_is_waited_for(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        (tmp_path / name).unlink(missing_ok=True)
        make(tmp_path / name)
        with at_most(20), pytest.raises(ModelError, match="is a pipe or a device"):
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
    if sys.platform != "win32":
        with at_most(20), pytest.raises(ValueError, match="larger than"):
            read_plain_yaml(Path("/dev/zero"))
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


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("a.jsonl", '{"answer": "red", "image": "a", "answer": "blue"}'),
        ("a.json", '[{"answer": "red", "more": {"x": 1, "x": 2}}]'),
        ("a.csv", "image,answer, answer\na.png,red,blue\n"),
    ],
)
def test_what_is_given_twice_is_not_chosen_from(tmp_path, name, held):
    (tmp_path / name).write_text(held)
    with pytest.raises(ProblemError, match=r"twice|two columns 'answer'"):
        assert not list(read_data(tmp_path / name))


def stream(table, **options):
    held = io.BytesIO()
    with pa.ipc.new_stream(held, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as file:
        file.write_table(table)
    return held.getvalue()


def test_a_stream_of_arrow_holds_as_much_as_its_file(tmp_path):
    file, rows = tmp_path / "data.arrow", pa.table({"x": ["ab"] * 130, "y": [[1]] * 130})
    file.write_bytes(stream(rows))
    read = list(tables.read_table(file))
    assert [one.value for one in read] == rows.to_pylist()
    assert read[-1].where.endswith("row 130")
    texts = pa.array(["a" * 9000] * 3)
    for held, said in (
        (stream(rows, compression="zstd"), "not compressed"),
        (stream(rows, compression="lz4"), "not compressed"),
        (stream(pa.table({"x": texts.dictionary_encode()})), "types that nothing writes"),
        (stream(pa.table({"x": pa.array([["a"]]).cast(pa.list_(pa.string_view()))})), "nothing"),
        (stream(pa.table({"x": pa.nulls(10**7)})), "10000000 rows in"),
        (stream(rows).replace(b"\x00\x01\x04\x00", b"\x00\x00\x04\x00", 1), "with no schema"),
        (b"", "is damaged"),
    ):
        file.write_bytes(held)
        with pytest.raises(ProblemError, match=said):
            list(tables.read_table(file))


def test_arrow_and_parquet_of_any_bytes(tmp_path):
    table = pa.table(
        {"id": ["a", "b"], "image": [{"bytes": b"x", "path": None}] * 2, "x": [[1], []]}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    (tmp_path / "t.arrow").write_bytes(stream(table))
    for file in tmp_path.iterdir():
        whole = file.read_bytes()
        for number in range(50):
            file.write_bytes(harmed(whole, random.Random(number)))
            survives(lambda file=file: list(tables.read_table(file)))


def test_a_date_that_python_has_none_for_is_said(tmp_path):
    pq.write_table(pa.table({"t": pa.array([2**60], pa.timestamp("us"))}), tmp_path / "t.parquet")
    with pytest.raises(ProblemError, match="is damaged"):
        list(tables.read_table(tmp_path / "t.parquet"))


@pytest.mark.parametrize("held", ["[" * 10**5, '{"a":' * 10**5, "\x00", "1" * 10**5, "(" * 10**5])
def test_a_cell_of_any_form_is_one_sentence(tmp_path, held):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    fields = {"image": "a.png", "question": "What?", "answer": "red"}
    for name in ("candidates", "boxes", "steps", "question"):
        row = {**fields, name: held}
        cells = [f'"{cell}"' for cell in (one.replace('"', '""') for one in row.values())]
        (tmp_path / "own.csv").write_text(f"{','.join(row)}\n{','.join(cells)}\n")
        survives(lambda: check_data(tmp_path / "own.csv"))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.csv", "a.json"])
def test_what_unpacks_to_more_than_memory_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(tables, "_LARGEST_ROW", 10_000)
    monkeypatch.setattr(tables, "total_memory", lambda: 160_000)
    for size in (1_000, 30_000):
        held = json.dumps([{"a": "x" * size}] if ".json" in name else {"a": "x" * size}).encode()
        held = held[1:-1] if "jsonl" in name else b"a\n" + held if "csv" in name else held
        (tmp_path / name).write_bytes(gzip.compress(held) if name.endswith("gz") else held)
        if size == 1_000:
            assert len(list(tables.read_table(tmp_path / name))) == 1
            continue
        with pytest.raises(ProblemError, match=r"a line of more than|holds more than"):
            list(tables.read_table(tmp_path / name))


def test_a_table_whose_rows_all_repeat_one_long_text_is_refused(tmp_path, monkeypatch):
    """Its footer says little; what it unpacks to is its texts times its rows."""
    file = tmp_path / "t.parquet"
    long = "x" * 10_000
    table = pa.table({"a": [long] * 300, "b": [[long, "y"]] * 300, "n": [1.0] * 300})
    pq.write_table(table, file)
    monkeypatch.setattr(table_checks, "total_memory", lambda: 30_000_000)
    assert file.stat().st_size < 5_000 and table_checks.read_parquet(file).equals(table)
    assert table_checks.read_parquet(file, file.read_bytes()).equals(table)
    monkeypatch.setattr(table_checks, "total_memory", lambda: 10_000_000)
    for content in (None, file.read_bytes()):
        with pytest.raises(RunError, match=r"unpacks to 0\.0 GiB, more than half of the memory"):
            table_checks.read_parquet(file, content)
    # Numbers, of which a run of the same takes no room.
    pq.write_table(pa.table({"n": [1] * 2_000_000}), file)
    with pytest.raises(RunError, match="unpacks to"):
        table_checks.read_parquet(file)


ACCESS = {
    "item": ["a", "b"],
    "step": [1, 1],
    "n_steps": [1, 1],
    "layer": [0, 0],
    "head": [0, 0],
    **{name: [0.5, 0.5] for name in ("mass", "share", "density")},
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"step": ["x", "y"]}, "its column step holds string, expected a whole number"),
        ({"step": [1.0, 1.0]}, "its column step holds double, expected a whole number"),
        ({"step": [1, None]}, "its column step has 1 empty cells"),
        ({"n_steps": [-1, 1]}, "its column n_steps goes from -1 to 1, expected 0 to"),
        ({"layer": [0, 2**62]}, "its column layer goes from 0 to 4611686018427387904"),
        ({"item": [["a"], ["b"]]}, "its column item holds list<.*>, expected text"),
        ({"item": [{"a": 1}, {"a": 2}]}, "its column item holds struct<.*>, expected text"),
        ({"item": pa.array([b"a", b"\xed\xa0\x80"]).cast(pa.string(), safe=False)}, "is damaged"),
        ({"mass": ["\x1b[31m", "x"]}, "its column mass holds string, expected a number"),
        ({"share": None}, "it has no column share"),
        ({"mass": [0.5, -3.0]}, "mass is -3, expected 0 to 1"),
    ],
)
@pytest.mark.parametrize("in_parts", [False, True])
def test_tables_of_strangers_hold_what_they_should(tmp_path, changes, said, in_parts):
    manifest = {"seed": 0, "config": {}, "models": {}, "data": {}, "item_digests": {}}
    run = RunFolder.create(
        tmp_path / "run", manifest | {"item_digests": {"test": {"a": "", "b": ""}}}
    )
    columns = {name: held for name, held in {**ACCESS, **changes}.items() if held is not None}
    mark = {table_checks.MARK: run._mark("access")}
    own = {"items": ["a", "b"], "places": [0, 1], "arrays": None, "with_array": []}
    table = pa.table(columns).replace_schema_metadata(mark | {b"attcot": json.dumps(own)})
    held = io.BytesIO()
    pq.write_table(table, held)
    name = f"access/00000-of-00001-{hashlib.sha256(held.getvalue()).hexdigest()[:12]}"
    write_bytes(
        run.path / "tables" / (f"{name}.parquet" if in_parts else "access.parquet"), held.getvalue()
    )
    if said is None:
        assert len(run.read_table("access")) == 2
        return
    with pytest.raises(RunError, match=said) as caught:
        run.read_table("access")
    assert "delete it" in str(caught.value)


@pytest.mark.parametrize(
    "about",
    [
        [],
        {"items": ["a"]},
        {"items": 7, "places": [0], "arrays": None, "with_array": []},
        {"items": ["a", "b"], "places": [0], "arrays": None, "with_array": []},
        {"items": ["a", "b"], "places": ["x", 1], "arrays": None, "with_array": []},
        {"items": [["a"], "b"], "places": [0, 1], "arrays": None, "with_array": ["c"]},
    ],
)
def test_parts_of_strangers_say_what_they_hold(tmp_path, about):
    run = run_folder(tmp_path / "run")
    table = pa.table({"item": ["a", "b"]})
    mark = {table_checks.MARK: run._mark("mine"), b"attcot": json.dumps(about)}
    held = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(mark), held)
    name = f"00000-of-00001-{hashlib.sha256(held.getvalue()).hexdigest()[:12]}.parquet"
    write_bytes(run.path / "tables" / "mine" / name, held.getvalue())
    for call in (run.parts("mine").frame, lambda: run.parts("mine").missing([[0, 1]], ["a", "b"])):
        with pytest.raises(RunError, match="is damaged"):
            call()


@pytest.mark.parametrize(
    ("name", "read", "changes"),
    [
        ("claims.parquet", read_claims, {"effect": ["x"]}),
        ("claims.parquet", read_claims, {"claim": [7]}),
        ("claims.parquet", read_claims, {"verdict": None}),
        ("claims.parquet", read_claims, {"n_items": [-4]}),
        ("claims.parquet", read_claims, {"low": [[1.0, 2.0]]}),
        ("tables/values.parquet", read_values, {"value": ["<script>"]}),
        ("tables/values.parquet", read_values, {"seed": [None]}),
        ("tables/values.parquet", read_values, {"metric": None}),
    ],
)
def test_claims_of_strangers_hold_what_they_should(tmp_path, name, read, changes):
    whole = pq.read_table(shipped("results/claims") / name).slice(0, 1)
    (tmp_path / "tables").mkdir()
    pq.write_table(whole, tmp_path / name)
    assert len(read(tmp_path)) == 1
    held = {column: whole.column(column) for column in whole.column_names} | changes
    pq.write_table(
        pa.table({key: one for key, one in held.items() if one is not None}), tmp_path / name
    )
    with pytest.raises(RunError, match=f"is damaged: its column {next(iter(changes))}|no column"):
        read(tmp_path)
    for content in (b"", b"PAR1", (tmp_path / name).read_bytes()[:-9]):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RunError, match="is damaged"):
            read(tmp_path)


@pytest.mark.parametrize(
    "grid", [b"{", b"[]", b'{"kinds": []}', b'{"kinds": {"a": {"train_prior": "x"}}}', b"\xff"]
)
def test_a_grid_file_of_a_stranger_is_one_sentence(tmp_path, grid):
    (tmp_path / "tables").mkdir()
    whole = pq.read_table(shipped("results/claims") / "tables/values.parquet").slice(0, 1)
    pq.write_table(whole, tmp_path / "tables" / "values.parquet")
    assert run_facts(tmp_path)
    (tmp_path / "grid.json").write_bytes(grid)
    with pytest.raises(RunError, match=r"damaged.*grid\.json|grid\.json is damaged"):
        run_facts(tmp_path)


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
