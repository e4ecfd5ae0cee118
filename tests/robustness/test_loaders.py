"""Every loader under random damage: what it was given, or one clear sentence."""

import json
import random
import shutil
from contextlib import contextmanager
from functools import partial

import numpy as np
import pandas as pd
import pytest
import yaml
from faults import survives
from fuzzing import SEEDS, VALUES, WORDS, harmed, planted
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from attcot_analysis.errors import AttCoTError, ShowError
from attcot_analysis.problems import load_problems, save_problems
from attcot_analysis.runs.parts import Part
from attcot_analysis.runs.provenance import noted_sources
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.show.explorer.record import ExplorerModel, ExplorerRecord, read_key, select
from attcot_analysis.show.report.arms import read_arm as read_measured
from attcot_lab.arms import read_arm
from attcot_lab.plan import read_plan
from attcot_lab.testbed.arrows import generate_arrows
from benchmarks.explorer import planted_record


@pytest.fixture(scope="module")
def fuzz(request):
    """Hypothesis with as many examples as asked for, always the same ones."""
    n = request.config.getoption("--examples", 15)
    return settings(
        max_examples=n,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def restored(path):
    """What a file holds is put back at the end, whatever was written to it."""
    whole = path.read_bytes()
    try:
        yield
    finally:
        path.write_bytes(whole)


# --- problem folders ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    folder = tmp_path_factory.mktemp("problems") / "set"
    save_problems(generate_arrows(2, seed=0), folder)
    return folder


def test_problem_lines_of_any_bytes(problems, fuzz, fault):
    path = problems / "problems.jsonl"
    whole = path.read_bytes()

    @fuzz
    @given(SEEDS)
    def check(seed):
        with fault("fuzzed problem folder"):
            path.write_bytes(harmed(whole, random.Random(seed)))
            survives(lambda: load_problems(problems))

    with restored(path):
        check()
    assert len(load_problems(problems)) == 2


def test_problem_records_of_any_values(problems, fuzz, fault):
    path = problems / "problems.jsonl"
    whole = path.read_bytes()
    record = json.loads(whole.splitlines()[0])

    @fuzz
    @given(SEEDS, VALUES)
    def check(seed, value):
        with fault("fuzzed problem folder"):
            changed = planted(record, random.Random(seed), value)
            path.write_text(json.dumps(changed), encoding="utf-8")
            survives(lambda: load_problems(problems))

    with restored(path):
        check()


def test_pictures_of_any_bytes(problems, fuzz, fault):
    path = sorted((problems / "images").iterdir())[0]
    whole = path.read_bytes()

    @fuzz
    @given(SEEDS)
    def check(seed):
        with fault("cut or corrupt picture"):
            path.write_bytes(harmed(whole, random.Random(seed)))
            survives(lambda: load_problems(problems))

    with restored(path):
        check()


# --- run folders --------------------------------------------------------------------------------

MANIFEST = {
    "seed": 0,
    "config": {"layers": None},
    "models": {"model": {"name": "m", "weights_sha256": None}},
    "data": {"test": {"n": 2, "sha256": "0"}},
    "versions": {"torch": "2"},
}
FILES = {
    "corrupt manifest": ["manifest.json", "sources.json"],
    "corrupt parquet": ["tables/answers_cot.parquet", "tables/access/*.parquet"],
    "corrupt safetensors": ["arrays/maps/*.safetensors"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with every kind of file; not one that `attcot measure` has finished."""
    manifest = {
        **MANIFEST,
        "resumed": [{"created": "now", "versions": {"torch": "3"}}],
    }
    run = RunFolder.create(tmp_path_factory.mktemp("run") / "run", manifest)
    rows = pd.DataFrame({"item": ["a", "b"], "x": [1.0, 2.0], "ids": [[1], [2, 3]]})
    run.write_table("answers_cot", rows)
    run.write_json("sources", {"model": {"folder": "../m"}, "problems": {"folder": "../p"}})
    run.parts("maps").write(0, [[0, 1]], ["a", "b"], Part(rows, {"a": np.ones(3)}))
    run.parts("access").write(0, [[0]], ["a"], Part(rows[:1]))
    return run


def read_all(folder):
    """Everything that reads a run folder; whether anything was refused."""
    run = RunFolder(folder)
    calls = [
        lambda: RunFolder.open(folder).manifest,
        partial(RunFolder.create, folder, MANIFEST, resume=True),
        partial(noted_sources, run),
        partial(read_measured, folder),
        lambda: run.read_arrays("maps"),
        lambda: run.parts("access").missing([[0]], ["a"]),
        lambda: list(run.read_blocks("access")),
        *(partial(run.read_table, name) for name in run.tables),
    ]
    return [survives(call) for call in calls]


@pytest.mark.parametrize(
    ("name", "file"), [(name, file) for name, files in FILES.items() for file in files]
)
def test_run_folders_of_any_bytes(run, tmp_path, fuzz, fault, name, file):
    (path,) = run.path.glob(file)
    whole = path.read_bytes()

    @fuzz
    @given(SEEDS, VALUES)
    def check(seed, value):
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(run.path, folder)
        place = folder / path.relative_to(run.path)
        draw = random.Random(seed)
        with fault(name):
            if path.suffix == ".json" and draw.random() < 0.7:
                place.write_text(json.dumps(planted(json.loads(whole), draw, value)))
            else:
                place.write_bytes(harmed(whole, draw))
            read_all(folder)

    check()


# --- configurations -----------------------------------------------------------------------------

ARM = {
    "title": "T",
    "about": "A.",
    "recipe": "sft",
    "attcot": {"lambda_vis": 0.5, "vis_layers": [1], "vis_form": "hinge"},
}
SAYO = {"title": "T", "about": "A.", "recipe": "sayo", "options": {"sft_first": True}}
VISTA = {"title": "T", "about": "A.", "recipe": "vista", "options": {}}
GRID = {
    "about": "A.",
    "models": ["x-small"],
    "problems": {"arrows": {"noise": 240.0, "hops": 1, "finetune": {"steps": 3}}},
    "arms": ["base", "cot_sft"],
    "seeds": [0],
    "items": 3,
    "finetune": {"steps": 2, "learning_rate": 0.1},
    "blocks": [{"seeds": [1], "arms": ["att_cot"]}],
}
FULL = {
    "about": "A.",
    "models": ["a/b"],
    "problems": {"photos": {"test": "test", "train": "train"}},
    "arms": ["base", "cot_sft"],
    "measure": {"layers": [1, 2], "edits": ["blank"], "maps": True},
    "dtype": "float32",
    "check": False,
}


@pytest.mark.parametrize(
    ("name", "config", "read"),
    [
        ("arm", ARM, read_arm),
        ("sayo", SAYO, read_arm),
        ("vista", VISTA, read_arm),
        ("grid", GRID, read_plan),
        ("full", FULL, read_plan),
    ],
)
def test_configurations_of_any_values(tmp_path, fuzz, fault, name, config, read):
    path = tmp_path / f"{name}.yaml"
    whole = yaml.safe_dump(config)
    path.write_text(whole)
    read(path)

    @fuzz
    @given(SEEDS, VALUES)
    def check(seed, value):
        draw = random.Random(seed)
        with fault("fuzzed configuration"):
            if draw.random() < 0.8:
                text = yaml.safe_dump(planted(config, draw, value), allow_unicode=True)
                path.write_text(text, encoding="utf-8", errors="replace")
            else:
                path.write_bytes(harmed(whole.encode(), draw))
            survives(lambda: read(path))

    check()


# --- explorers ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record():
    return planted_record(models=2, layers=2, heads=2, steps=2, step_tokens=4, rows=2, cols=2)


def test_explorer_choices_of_any_values(record, fuzz, fault):
    words = st.sampled_from(["mean", "max", "visual", "answer", "step 1", "step 99", "step x"])
    choices = words | st.none() | st.integers(-3, 99) | VALUES

    @fuzz
    @given(choices, choices, choices, st.none() | WORDS, WORDS)
    def check(layer, head, token, source, key):
        with fault("fuzzed explorer record"):
            for call in (
                lambda: select(record, layer=layer, head=head, token=token, source=source),
                lambda: read_key(record, f"attention.0.{key}"),
                lambda: read_key(record, key),
            ):
                try:
                    call()
                except AttCoTError as error:
                    assert isinstance(error, ShowError)

    check()


def test_explorer_records_of_parts_that_do_not_fit(record, fuzz, fault):
    model = record.models[0]
    maps = model.maps[0]
    shapes = st.lists(st.integers(0, 3), max_size=5)

    @fuzz
    @given(shapes, st.integers(0, 3), st.integers(0, 3), st.lists(st.tuples(SEEDS, SEEDS)))
    def check(shape, tokens, layers, heads):
        with fault("fuzzed explorer record"):
            changed = type(maps)(
                np.ones(shape, np.float32),
                maps.grid,
                maps.tokens[: tokens * 8],
                maps.steps[: tokens * 8],
                maps.boxes[: tokens * 8],
                maps.answer,
                maps.source,
            )
            survives(
                lambda: ExplorerRecord(
                    record.problem,
                    (model, ExplorerModel("b", (changed,))),
                    tuple(heads),
                    layers=tuple(range(layers)),
                )
            )
            survives(lambda: ExplorerRecord(record.problem, (ExplorerModel("b", (changed,)),)))

    check()
