"""`attcot figures`, `table` and `items`: what a paper takes from measured runs."""

import csv
import io
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from reports.planted import planted_problems, planted_run, planted_tables

from attcot_analysis.cli import main
from attcot_analysis.errors import ShowError
from attcot_analysis.measures.compare import compare, summarise
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.show.ranking import ranked_items
from attcot_analysis.show.report.arms import read_arm
from attcot_analysis.stats.catalogue import METRICS

N = 20


@pytest.fixture(scope="module")
def problems():
    plain = planted_problems(N)
    return [replace(plain[0], question="Where\x1b[2J does it end?"), *plain[1:]]


@pytest.fixture(scope="module")
def runs(problems, tmp_path_factory):
    """Two runs with other planted tables; of the second three CoT answers were not read."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed, unparsed in (("a", 0, 0), ("b,2", 3, 3)):
        tables = planted_tables(problems, sizes=(5, 5, 5, 5), seed=seed, unparsed=unparsed)
        planted_run(folder / name, problems, tables)
    return folder


@pytest.fixture(scope="module")
def comparison(runs):
    """The tables that `compare_runs` leaves, without its page."""
    values = [
        RunFolder.open(runs / run).read_table("values").assign(model=name)
        for run, name in (("a", "my_model & 1%"), ("b,2", "att_cot"))
    ]
    both = pd.concat(values, ignore_index=True)
    run = RunFolder.create(runs / "both", {"seed": 0, "config": {}, "models": {}, "data": {}})
    run.write_table("summary", summarise(both, n_boot=50))
    run.write_table("comparisons", compare(both, "my_model & 1%", "att_cot", n_boot=50))
    return run


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def number(text):
    return float(text.replace("$-$", "-").replace("\N{MINUS SIGN}", "-"))


# --- table --------------------------------------------------------------------------------------


def test_a_table_holds_the_summary_of_the_run(runs, capsys):
    values = RunFolder.open(runs / "b,2").read_table("values")
    summary = summarise(values).set_index("metric")
    assert main(["table", str(runs / "b,2"), "--to", "csv", "--metrics", "all"]) == 0
    told = capsys.readouterr()
    found = {row["metric"]: row for row in rows(told.out)}
    assert set(found) == set(summary.index)
    for name, row in found.items():
        assert [float(row[key]) for key in ("value", "low", "high")] == pytest.approx(
            list(summary.loc[name, ["value", "low", "high"]])
        )
        assert (int(row["n_items"]), int(row["n_seeds"])) == (summary.loc[name, "n_items"], 1)
        assert (row["title"], row["unit"]) == (METRICS[name].title, METRICS[name].unit)
    assert told.err.startswith("15.0% of the CoT answers of planted could not be read")


def test_latex_is_escaped_and_says_first_what_was_not_read(comparison, capsys):
    command = ["table", str(comparison.path), "--metrics", "mass", "follow_twin", "premature"]
    assert main(command) == 0
    note, begin, top, head, *lines = capsys.readouterr().out.splitlines()
    assert note.startswith("% 15.0% of the CoT answers of Att-CoT could not be read")
    assert (begin, top) == (r"\begin{tabular}{lrrrl}", r"\toprule")
    name = r"my\_model \& 1\%"
    # Known arms come first, the difference is what was compared with what.
    assert head == rf"metric & Att-CoT & {name} & Att-CoT $-$ {name} & n \\"
    assert lines[0] == r"\midrule" and lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    held = comparison.read_table("comparisons").set_index("metric")
    for line, metric in zip(lines[1:4], ("mass", "follow_twin", "premature"), strict=True):
        cells = [cell.strip() for cell in line.removesuffix(r" \\").split(" & ")]
        assert cells[0] == f"{METRICS[metric].title} ({METRICS[metric].unit})"
        assert number(cells[3].split()[0]) == pytest.approx(held.loc[metric, "value"], abs=5e-4)
        assert re.fullmatch(r"\S+ \[\S+,~\S+\]", cells[3]) and cells[4] == (
            r"20 items $\times$ 1 seed"
        )


def test_what_rests_on_unread_answers_has_no_p_value(comparison, capsys):
    assert main(["table", str(comparison.path), "--to", "csv", "--metrics", "all"]) == 0
    compared = {row["metric"]: row for row in rows(capsys.readouterr().out) if "−" in row["model"]}
    held = comparison.read_table("comparisons").set_index("metric")
    assert set(compared) == set(held.index)
    assert compared["follow_twin"]["p_holm"] == "" and np.isfinite(held.loc["mass", "p_holm"])
    assert float(compared["mass"]["p_holm"]) == pytest.approx(held.loc["mass", "p_holm"])


def test_markdown_in_a_file_that_is_not_replaced(runs, tmp_path, capsys):
    out = tmp_path / "t.md"
    both = f"{runs / 'a'},{runs / 'b,2'}"
    command = ["table", both, "--to", "md", "--metrics", "mass", "--out", str(out)]
    assert main(command) == 0
    lines = out.read_text().splitlines()
    assert lines[-3:-1] == ["| metric | planted | n |", "| --- | --- | --- |"]
    assert "20 items × 2 seeds" in lines[-1]
    assert main(command) == 1 and "--overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0


def test_a_mistyped_metric_is_named(runs, capsys):
    assert main(["table", str(runs / "a"), "--metrics", "prematur"]) == 1
    assert "did you mean premature?" in capsys.readouterr().err
    assert main(["items", str(runs / "a"), "--worst", "prematur"]) == 1
    assert "did you mean premature?" in capsys.readouterr().err


# --- items --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "metric", "lowest"),
    [
        ("--worst", "p0_final", False),
        ("--worst", "commitment_position", True),
        ("--lowest", "p0_final", True),
        ("--highest", "mass", False),
    ],
)
def test_items_come_in_the_order_of_the_metric(runs, problems, option, metric, lowest, capsys):
    assert main(["items", str(runs / "a"), option, metric, "--n", "6"]) == 0
    told = capsys.readouterr().out
    values = RunFolder.open(runs / "a").read_table("values")
    own = values[values["metric"] == metric].set_index("item")["value"].dropna()
    ids = [problem.id for problem in problems]
    sign = 1 if lowest else -1
    expected = sorted(own.index, key=lambda item: (sign * own[item], ids.index(item)))[:6]
    found = re.findall(r"^ *(\S+)  (arrows\S+)$", told, flags=re.MULTILINE)
    assert [item for _, item in found] == expected
    assert [number(value) for value, _ in found] == pytest.approx(list(own[expected]), abs=5e-4)
    assert told.startswith(f"{metric}, {METRICS[metric].title}")


def test_items_show_what_was_asked_and_said_and_cannot_steer_a_terminal(runs, problems, capsys):
    command = ["items", f"{runs / 'b,2'}", "--worst", "net_dependence", "--n", str(N)]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "\x1b" not in told and r"Where\x1b[2J does it end?" in told
    assert "Neither direction of it is better by itself" in told
    answers = RunFolder.open(runs / "b,2").read_table("answers_cot").set_index("item")["answer"]
    for problem in problems:
        line = told.split(problem.id)[1].splitlines()[2]
        said = answers[problem.id] if isinstance(answers[problem.id], str) else "(unparsed)"
        assert f"cot: {said};" in line and line.endswith(f"right: {problem.answer}")
    assert told.count("(unparsed)") == 3


def test_items_without_a_value_and_ties_are_counted(runs, problems):
    arm = read_arm(runs / "a")
    later = [problem.id for problem in problems[4:]]
    edits = arm.tables[0]["dependence"]
    tables = {**arm.tables[0], "dependence": edits[edits["item"].isin(later)]}
    found = ranked_items(replace(arm, tables={0: tables}), problems, "follow_twin", n=1)
    assert "the 1 lowest of 16 items" in found.notes[0]
    assert found.notes[1] == "4 of 20 items have no value and are left out."
    assert "items share the value 0.000; of these the first" in found.notes[2]
    with pytest.raises(ShowError, match="at least one item"):
        ranked_items(arm, problems, "mass", n=0)


@pytest.mark.parametrize("options", [[], ["--worst", "mass", "--lowest", "mass"]])
def test_one_end_is_asked_for(runs, options, capsys):
    assert main(["items", str(runs / "a"), *options]) == 2
    assert "give one of --worst, --lowest and --highest" in capsys.readouterr().err


# --- figures ------------------------------------------------------------------------------------


def test_figures_of_two_runs_are_vector_files_in_the_width(runs, tmp_path, capsys):
    out = tmp_path / "figures"
    command = ["figures", str(runs / "a"), str(runs / "b,2"), "--names", "base", "att_cot"]
    command += ["--width", "3.3in", "--wide", "6.9in", "--font-size", "7", "--out", str(out)]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert told.startswith("Note: 15.0% of the CoT answers of Att-CoT could not be read")
    widths = {
        path.stem: float(re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", path.read_bytes())[1]) / 72
        for path in out.iterdir()
    }
    assert {path.suffix for path in out.iterdir()} == {".pdf"}
    assert widths["commitment_final"] == pytest.approx(3.3)
    assert widths["access"] == widths["metrics"] == pytest.approx(6.9)
    assert {"comparisons", "access_layers", "commitment_habitual"} <= set(widths)
    assert all(f"{name}.pdf" in told for name in widths)
    assert main(command) == 1 and "already there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--font", "No Such Font"], "The font No Such Font is not installed"),
        (["--width", "3px"], "'3px' is no width"),
    ],
)
def test_what_cannot_be_drawn_is_said_before_anything_is(runs, options, sentence, tmp_path, capsys):
    assert main(["figures", str(runs / "a"), *options, "--out", str(tmp_path / "f")]) == 1
    assert sentence in capsys.readouterr().err and not (tmp_path / "f").exists()
