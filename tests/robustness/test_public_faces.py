"""Numbers of public functions that are out of range: one sentence each, whoever takes them.

Which functions those are is read off their signatures, so that a new one is tested or fails here.
"""

import inspect
import math
from importlib import import_module

import pandas as pd
import pytest

from attcot_analysis.errors import AttCoTError
from attcot_analysis.measures import visual_heads
from attcot_analysis.models import encode, load_mllm
from attcot_analysis.problems import render_response, save_problems
from attcot_analysis.shipped import TESTBED_MODEL, shipped
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
"""What is not called here, and why."""


def functions():
    found = {}
    for room in ROOMS:
        module = import_module(f"attcot_analysis{room}")
        for name in dir(module):
            one = getattr(module, name)
            if inspect.isfunction(one) and set(WRONG) & set(inspect.signature(one).parameters):
                found[name] = one
    return {name: one for name, one in sorted(found.items()) if name not in LATER}


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
