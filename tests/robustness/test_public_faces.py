"""Public functions on numbers out of range and on odd values of the types that they document.

Which functions those are is read off their signatures, so that a new one is tested or fails here.
"""

import contextlib
import inspect
import math
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from attcot_analysis import answer_problems, commitment, compare, summarise, visual_access
from attcot_analysis.errors import AttCoTError
from attcot_analysis.measures import visual_heads
from attcot_analysis.models import encode, load_mllm
from attcot_analysis.problems import render_response, save_problems
from attcot_analysis.runs.measure import measure_run
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from attcot_analysis.show import explorer_record
from attcot_analysis.stats import METRICS
from attcot_lab.testbed.arrows import generate_arrows

WRONG = {
    "seed": (-1, 2**70, 0.5),
    "limit": (0, -1),
    "batch_size": (0, -1, 1.5),
    "max_new_tokens": (0, -1),
    "n_boot": (0, -1, 10**12),
    "n_permutations": (0, -1),
    "level": (0.0, 1.0, -1.0, 2.0, math.nan, math.inf),
    "quantile": (-1.0, 2.0, math.nan),
    "temperature": (-1.0, math.nan, math.inf),
}
ROOMS = ("", ".attention", ".measures", ".problems", ".show", ".stats", ".train")
LATER = {
    "compare_runs": "of runs",
    "finetune": "its settings are checked in tests/train",
    "make_trainer": "its settings are checked in tests/train",
    "item_values": "seed is the training's, a label",
    "report_run": "of runs",
    "run_figures": "of runs",
    "step_curve": "tested in tests/measure/test_crossed.py",
    "studio": "serves until it is ended",
}
"""What is not called with numbers out of range, and why."""


def public():
    """Every public function."""
    modules = [import_module(f"attcot_analysis{room}") for room in ROOMS]
    found = [getattr(module, name) for module in modules for name in sorted(dir(module))]
    return {one.__name__: one for one in found if inspect.isfunction(one)}


def functions():
    return {
        name: one
        for name, one in sorted(public().items())
        if set(WRONG) & set(inspect.signature(one).parameters) and name not in LATER
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What every function is given beside the number: by its name, or else by a parameter's."""
    mllm = load_mllm(shipped(TESTBED_MODEL))
    first, *others = generate_arrows(20, seed=0)
    problems = [first, next(one for one in others if one.answer != first.answer)]
    folder = save_problems(problems, tmp_path_factory.mktemp("faces") / "set")
    said = [render_response(one.steps, one.answer) for one in problems]
    values = pd.DataFrame({"item": ["a", "b"] * 2, "model": ["m", "m", "n", "n"], "seed": 0})
    values = values.assign(metric="accuracy_cot", value=[0.0, 1.0, 1.0, 1.0])
    lengths = pd.DataFrame({"length": [1, 1, 2, 2], "item": list("abab"), "value": [0, 1, 1, 1]})
    heads = visual_heads(mllm, problems, said).table
    item = encode(mllm, first.image, first.question)
    box = (1.0, 1.0, 9.0, 9.0)
    by_parameter = {
        **{"mllm": mllm, "models": mllm, "problems": problems, "problem": first},
        **{"responses": said, "base_responses": said, "response": said[0], "prompts": [item]},
        **{"image": first.image, "question": "What?", "method": "occlusion", "values": values},
        **{"reasoning": lengths, "perception": lengths, "before": heads, "after": heads},
        **{"quantity": "mass", "items": [item], "boxes": [[[box]]], "layer": 0, "step": 0},
        **{"source": folder / "problems.jsonl", "folder": folder.parent / "new", "box": box},
        **{"effects": values, "primary": ["accuracy_cot"], "grid": item.layout.grids[0]},
        **{"how": "fill", "answer": problems[1].answer, "n_layers": 4, "width": 2, "edit": "twin"},
    }
    by_name = {
        "bootstrap_mean": {"values": [1.0, 2.0]},
        "compare": {"a": "m", "b": "n"},
        "paired_difference": {"a": [1.0, 2.0], "b": [0.0, 1.0]},
        "patching": {"edit": "twin"},
        "behaviour": {"edit": "twin"},
        "causal_access": {"generate": True},
        "edit": {"answer": None},
    }
    return by_parameter, by_name


@pytest.mark.long
def test_a_number_out_of_range_is_said(whole, fault):
    by_parameter, by_name = whole
    for name, function in functions().items():
        parameters = inspect.signature(function).parameters
        given = {key: one for key, one in by_parameter.items() if key in parameters}
        given |= by_name.get(name, {})
        lacks = [
            key
            for key, one in parameters.items()
            if one.default is one.empty and key not in given and one.kind not in (2, 4)
        ]
        assert not lacks, f"say above what to give {name} as {lacks}, or why it is not called"
        for key in set(WRONG) & set(parameters):
            for value in WRONG[key]:
                with fault("numbers of public functions out of range"):
                    try:
                        function(**given | {key: value})
                    except AttCoTError:
                        continue
                    except Exception as error:
                        raise AssertionError(f"{name}({key}={value!r})") from error
                    raise AssertionError(f"{name}({key}={value!r}) is accepted")


HALF = "\ud800"
NOT_GIVEN = {
    "attach": "a trainer's",
    "attached": "a model's",
    "compare_maps": "of maps that were read",
    "check_model": "tested in tests/robustness/test_settings.py",
    "finetune": "its settings are checked in tests/train",
    "grpo_rows": "of problems only",
    "hidden_commitment": "needs ten items",
    "information_flow": "of patchings, whose tables are checked",
    "intervening": "of interventions",
    "make_trainer": "its settings are checked in tests/train",
    "read_masses": "of tensors",
    "steering": "needs ten items",
    "step_curve": "tested in tests/measure/test_crossed.py",
    "studio": "serves until it is ended",
    "verdict": "of two numbers",
    "wrap_mllm": "a model's",
    "write_report": "of a report",
}
"""What is not called with odd values, and why."""


def tables(table):
    """A table without rows, without anything, and each of its first columns gone or not itself."""
    yield from (table.iloc[:0], pd.DataFrame(), pd.concat([table, table]))
    for name in table.columns[:8]:
        yield table.drop(columns=name)
        yield from (table.assign(**{name: math.nan}), table.assign(**{name: "x"}))


def odd(name, annotation, good, there):
    """Values of the type that a parameter is documented with, which it may refuse in a sentence."""
    kind = str(annotation)
    if isinstance(good, pd.DataFrame):
        return list(tables(good))
    if "Path" in kind and name in PATHS:
        empty, folder = there
        return ["", "a\0b", "x" * 300, f"{empty}/x", str(empty), str(folder), HALF, "~nobody/x"]
    if "Path" not in kind and name in ("values", "matrix", "a", "b") and "str" not in kind[:20]:
        return [[], [math.nan] * 2, [math.inf, 1.0], ["a", "b"], [[1.0], [2.0, 3.0]], [None] * 2]
    if name == "layers":
        return [[], [-1], [10**6], [math.nan], [0, 0]]
    if name == "image" and annotation is Image.Image:
        return [Image.new("RGB", (1, 1)), Image.new("RGB", (0, 0)), Image.new("F", (9, 9))]
    values = ODD.get(name, []) if "Mapping" not in kind or name == "mask" else []
    return [[value] for value in values] if kind.count("Sequence[") > 2 else values


PATHS = ("folder", "out", "source", "base", "run", "name_or_path", "path", "a", "b", "figures")
ODD = {
    "responses": [[], [""], ["", ""], [[], []], [[-1]] * 2, [[10**9]] * 2, [HALF] * 2, "ab"],
    "base_responses": [[], ["", ""], [[-1]] * 2, [[10**9]] * 2, [HALF] * 2, ["\0"] * 2],
    "response": ["", [], [-1], [10**9], HALF, "<|image_pad|>", " "],
    "question": ["", HALF, "\0", "<|image_pad|>", "$\\frac", "\u202eabc"],
    "answer": ["", HALF, "\0", "<|image_pad|>"],
    "model": ["", HALF],
    "axis": ["", "nonsense", HALF],
    "edit": ["", "nonsense", HALF],
    "box": [(math.nan,) * 4, (5.0,) * 4, (9.0, 9.0, 1.0, 1.0), (0, 0, math.inf, 1), (1.0, 2.0)],
    "boxes": [[], [[(math.nan,) * 4]], [[(9.0, 9.0, 1.0, 1.0)]]],
    "mask": [np.zeros((0, 0), bool), np.ones((3, 3), bool), {}, {"size": [1], "counts": "1"}],
    "maps": [[], [np.zeros((0, 0))], [np.full((4, 4), np.nan)], [np.zeros(4)]],
    "labels": [[], ["a"] * 3, [HALF]],
    "places": [[-1], [10**6], [math.nan]],
    "only": [[-1], [10**6], [math.nan]],
    "clusters": [[], [None, None], [[1], [2]], ["a"]],
    "points": [-1, 0, 0.5, 10**9],
    "what": [[], ["nonsense"], [HALF]],
    "sites": [[], ["nonsense"]],
    "groups": [[], ["nonsense"]],
    "windows": [[], [(-1, 0)], [(0, 999)], [(2, 0)]],
    "heads": [[], [(-1, 0)], [(0, 999)]],
    "regions": [(0, 0), (-1, 2), (1000, 1000)],
    "folds": [-1, 0, 1, 10**6],
    "max_steps": [-1, 0],
    "metrics": [["nonsense"], [HALF]],
}


@pytest.fixture(scope="module")
def more(whole, tmp_path_factory):
    """As `whole`, for those functions that take no numbers of `WRONG`."""
    by_parameter, by_name = whole
    mllm, problems, said = (by_parameter[name] for name in ("mllm", "problems", "responses"))
    place = tmp_path_factory.mktemp("runs")
    run = measure_run(place / "run", mllm, problems, max_new_tokens=32, what=["answers", "access"])
    values = by_parameter["values"]
    seen = visual_access(mllm, problems, said)
    curve = seen.curve().assign(model="m")
    settled = commitment(mllm, problems, said).curve().assign(model="m")
    cot = answer_problems(mllm, problems, max_new_tokens=32)
    record = explorer_record(mllm, problems[0], said[0])
    flat = np.ones((4, 4)) / 16
    by_parameter = by_parameter | {
        **{"curves": curve, "summary": summarise(values), "comparisons": compare(values, "m", "n")},
        **{"table": seen.table.assign(value=0.5, model="m"), "answers": cot, "text_only": cot},
        **{"log": pd.DataFrame({"step": [1, 2], "model": "m", "loss": [1.0, 0.5]}), "name": "m"},
        **{"maps": [flat], "labels": ["a"], "record": record, "records": [record], "entries": [{}]},
        **{"encoded": by_parameter["items"][0], "rows": [5], "text": said[0], "metrics": METRICS},
        **{"path": place / "one", "run": run.path, "out": place / "out", "model": "m", "seed": 0},
        **{"a": run.path, "b": run.path, "name_or_path": "tags", "kind": "blank", "axis": "step"},
        **{"read": lambda table: table, "figure": Figure(), "base": run.path, "steps": ["A."]},
    }
    same = {"overwrite": True}
    run_of = {"problems": by_parameter["source"].parent}
    by_name = by_name | {
        **{"commitment_curves": {"curves": settled}, "before_after": {"before": [flat]}},
        **{"seeds_items": {"matrix": [[0.0, 1.0], [1.0, 1.0]]}, "region_picture": {"boxes": []}},
        **{"item_values": {"cot": cot, "access": seen.table, "text_only": None}},
        **{"perceptions": {"steps": [["A."], ["B."]]}, "heatmap_row": {"boxes": None}},
        **{"save_problems": same, "convert_data": same, "save_figure": same},
        **{
            "report_run": same | run_of | {"items": 3},
            "run_figures": run_of,
            "compare_runs": run_of | {"models": False},
        },
        **{"load_problems": {"folder": run_of["problems"]}, "measure": {"run": None}},
        **{"answer_problems": {"answers": None, "text_only": False}, "metric_table": {}},
        **{"measure_run": {"folder": place / "other"}, "patching_search": {"step": "first"}},
        **{"causal_access": {"steps": None, "rows": "rationale"}, "explore": {"values": None}},
        **{"load_mllm": {"name_or_path": shipped(TESTBED_MODEL)}, "explorer_record": {}},
        **{"residual": {"before": by_parameter["image"], "after": by_parameter["image"]}},
    }
    by_name["before_after"] |= {"after": [flat], "boxes": None}
    by_name["residual"] |= {"region": [(0, 0, 5, 5)]}
    by_name["metric_table"] = {"metrics": ()}
    return by_parameter, by_name


@pytest.mark.long
def test_an_odd_value_is_read_or_said(more, fault, tmp_path, monkeypatch):
    by_parameter, by_name = more
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    there = tmp_path / "empty", tmp_path / "here"
    lost = []
    for name, function in public().items():
        if name in NOT_GIVEN:
            continue
        parameters = inspect.signature(function).parameters
        given = {key: one for key, one in by_parameter.items() if key in parameters}
        given |= by_name.get(name, {})
        for key, parameter in parameters.items():
            for value in odd(key, parameter.annotation, given.get(key), there):
                try:
                    with fault("odd values given to public functions"):
                        called(function, given | {key: value})
                except Exception as error:
                    lost.append(f"{name}({key}={value!r:.200}): {error!r}")
    assert not lost, "\n".join(lost)


def called(function, given):
    """Call it, to the end of what it yields; that it says what is wrong is as good."""
    with contextlib.suppress(AttCoTError):
        found = function(**given)
        if inspect.isgenerator(found):
            list(found)
