"""Command lines drawn at random on files of which one is damaged: done, or one sentence.

``make fuzz`` runs it for minutes; every command line can be drawn again from its number.
"""

import json
import random
import shutil
import time

import pytest
import yaml
from fuzzing import LONG, STEERING, VALUES, at_most, commands, copied, damage, drawn_command
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from attcot_analysis.cli import Exit, main
from attcot_analysis.problems import save_problems
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from attcot_lab.testbed.arrows import generate_arrows

_LONGEST = 120
"""Seconds after which a command that was given little has hung."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What the commands are given: a model, problems, a run, records, responses, a plan."""
    folder = tmp_path_factory.mktemp("fuzz") / "world"
    problems = save_problems(generate_arrows(3, seed=0), folder / "problems")
    shutil.copytree(shipped(TESTBED_MODEL), folder / "model")
    words = ["measure", str(folder / "model"), str(problems), "--out", str(folder / "run")]
    assert main([*words, "--quiet", "--max-new-tokens", "48"]) == Exit.DONE
    records = [{"image": "a.png", "question": "What?", "answer": "red"}]
    (folder / "records").mkdir()
    (folder / "records" / "own.jsonl").write_text("\n".join(map(json.dumps, records)))
    shutil.copyfile(next((problems / "images").iterdir()), folder / "records" / "a.png")
    (folder / "responses").write_text('{"id": "arrows-0", "text": "<think>1. A.</think> red"}\n')
    (folder / "decisions").write_text('{"arrows-0": {"twin": "reject"}}')
    plan = {
        "about": "A.",
        "models": [str(folder / "model")],
        "problems": {"arrows": {}},
        "arms": ["base"],
        "seeds": [0],
        "items": 2,
        "finetune": {"steps": 1},
    }
    (folder / "plan").write_text(yaml.safe_dump(plan))
    return folder


def attempt(world, place, number, value, slow, capsys):
    """One command on a copy of the world; the command, if it did what none may."""
    draw = random.Random(number)
    with copied(world, place) as here:
        harm = damage(here, draw, value) if draw.random() < 0.7 else "nothing"
        words = drawn_command(here, draw, slow=slow)
        capsys.readouterr()
        try:
            with at_most(_LONGEST):
                code = main(words)
        except BaseException as error:
            raise AssertionError(f"seed {number}: attcot {words}, {harm} damaged") from error
        said = capsys.readouterr()
    err = said.err.replace("\r", "\n")  # Bars.
    told = f"seed {number}: attcot {words}, {harm} damaged: {said.err}"
    assert code in set(Exit) - {Exit.INTERRUPTED}, told
    assert "Traceback" not in err and not STEERING.search(said.out + err), told
    if code in (Exit.ERROR, Exit.USAGE, Exit.NO_ROOM):
        assert "attcot: " in err.splitlines()[-1], told
    return " ".join(words[:2])


def test_commands_end_in_a_sentence(world, tmp_path, capsys, fault, request, monkeypatch):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home")
    # The studio serves until it is interrupted.
    monkeypatch.setattr("attcot_analysis.show.studio.server.StudioServer.serve", lambda self: None)
    minutes = request.config.getoption("--minutes", 0.0)
    first = request.config.getoption("--fuzz-seed", 0)
    n = request.config.getoption("--examples", 15)
    until = time.monotonic() + 60 * minutes

    @settings(
        max_examples=n,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(number, value):
        if minutes and time.monotonic() > until:
            return
        with fault("command lines on damaged files"):
            attempt(world, tmp_path / "copy", number, value, bool(minutes), capsys)

    drawn = given(st.integers(0, 2**32 - 1), VALUES)(check)
    seed(first)(drawn)()
    while minutes and time.monotonic() < until:
        first += 1
        seed(first)(drawn)()


def test_every_command_is_drawn_or_said_to_be_long():
    every = set(commands())
    assert set(LONG) < every and len(every) > 20
