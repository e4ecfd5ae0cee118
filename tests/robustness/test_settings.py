"""Checkpoints with one damaged value in one settings file: loaded and run, or one sentence."""

import json
import random
import shutil

from families import save_tiny_family
from faults import sentence
from fuzzing import STEERING, at_most
from PIL import Image

from attcot_analysis.errors import AttCoTError
from attcot_analysis.models import encode, generate, load_mllm
from attcot_analysis.shipped import TESTBED_MODEL, shipped

_VALUES = ("x", -1, 0, 10**9, None, [], {}, "\x1b[31m", 1.5, True, [["a"]], 2**70)
_FAMILIES = ("internvl", "llava", "llava_next", "gemma3", "gemma4", "idefics3", "qwen3_5", "glm4v")
_FAMILIES += ("molmo2", "minicpmv4_6")
_LONGEST = 60
"""Seconds in which a checkpoint of this size has long answered."""


def leaves(held, path=()):
    for key, value in held.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        yield (*path, key)


def test_a_damaged_value_of_a_checkpoints_settings_is_survived_or_said(tmp_path, fault, request):
    folder, wholes = tmp_path / "model", [shipped(TESTBED_MODEL)]
    draw = random.Random(request.config.getoption("--fuzz-seed", 0))
    n = request.config.getoption("--examples", 15)
    for name in draw.sample(_FAMILIES, len(_FAMILIES) if n >= 100 else 2):
        wholes.append(save_tiny_family(name, tmp_path / name))
    for _ in range(n):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(draw.choice(wholes), folder)
        file = draw.choice(sorted(folder.glob("*.json")))
        settings = json.loads(file.read_text())
        path = draw.choice(list(leaves(settings)))
        value, at = draw.choice(_VALUES), settings
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        file.write_text(json.dumps(settings))
        with fault("damaged settings of a checkpoint"):
            try:
                with at_most(_LONGEST):
                    mllm = load_mllm(folder)
                    item = encode(mllm, Image.new("RGB", (64, 64)), "Which colour?")
                    generate(mllm, [item], max_new_tokens=2)
            except AttCoTError as error:
                assert not STEERING.search(sentence(error)) and len(str(error)) < 1500
            except Exception as error:
                raise AssertionError(f"{file.name}: {path} is {value!r}") from error
