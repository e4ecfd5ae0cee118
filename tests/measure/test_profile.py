"""`profiled` counts passes and tokens by kind; `attcot measure --profile` writes them."""

import json
import re

from families import shared_family
from tiny import noise_image

from attcot_analysis.cli import main
from attcot_analysis.models import encode, generate
from attcot_analysis.runs.profile import BESIDE, profiled
from attcot_analysis.shipped import TESTBED_MODEL, TESTBED_PROBLEMS, shipped
from attcot_analysis.show.report.arms import read_arm, time_notes


def test_passes_are_counted_by_kind():
    mllm = shared_family("qwen2_5_vl")
    prompt = encode(mllm, noise_image(64, 96), "What color?")
    text = encode(mllm, None, "What color?")
    with profiled(mllm) as profile:
        (seen,) = generate(mllm, [prompt], max_new_tokens=5)
        (bare,) = generate(mllm, [text], max_new_tokens=3)
    assert profile.kinds["pictures"]["tokens"] == prompt.layout.n_tokens
    assert profile.kinds["text"]["tokens"] == text.layout.n_tokens
    # The token that ends a response is written, too; the first comes of the prompt's own pass.
    steps = [len(one.ids) + one.finished - 1 for one in (seen, bare)]
    assert profile.kinds["writing"]["passes"] == sum(steps) > 0
    assert profile.kinds["behind"]["passes"] == 0
    assert 0 < sum(kind["seconds"] for kind in profile.kinds.values()) <= profile.whole
    outside = profile.whole
    generate(mllm, [text], max_new_tokens=3)
    assert profile.whole == outside and profile.kinds["text"]["passes"] == 1


def test_measure_says_where_the_time_went(tmp_path, capsys):
    model, problems = str(shipped(TESTBED_MODEL)), str(shipped(TESTBED_PROBLEMS))
    command = ["measure", model, problems, "--out", str(tmp_path / "run"), "--items", "2"]
    assert main([*command, "--max-new-tokens", "40", "--quiet", "--profile"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"This run: [\d.e+]+ s an item; \d+ % ", said)
    found = json.loads((tmp_path / "run" / "profile.json").read_text())
    # Own picture, then twin and control edits and a blank one; what follows goes on from these.
    assert found["items"] == 2 and found["pictures"]["passes"] == 5
    assert found["behind"]["passes"] > 0 and found[BESIDE]["seconds"] > 0
    assert found["sentence"] in said
    # The report tells it, too.
    arm = read_arm(tmp_path / "run")
    assert time_notes(arm) == [found["sentence"]]
    # What is measured later took other time.
    assert main([*command, "--max-new-tokens", "40", "--quiet", "--profile", "--only", "lens"]) == 0
    assert "What this run was resumed for: " in time_notes(arm)[0]
    (tmp_path / "run" / "profile.json").unlink()
    assert time_notes(arm) == []
