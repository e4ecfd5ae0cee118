"""Does CoT hurt: what is planted is found, what is not is inconclusive, and the page says so."""

import json
import re
from html import unescape
from pathlib import Path

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
from reports.planted import GROUPS, never, planted_problems, planted_run, planted_tables
from show.samples import HOSTILE

from attcot_analysis.cli import main
from attcot_analysis.errors import MeasureError, RunError
from attcot_analysis.measures.commitment import Commitment
from attcot_analysis.measures.outcomes import (
    FEW_HURT,
    PATTERNS,
    SIGNS,
    STOPPED,
    WORDS,
    CotOutcomes,
    cot_outcomes,
)
from attcot_analysis.measures.samples import stacked
from attcot_analysis.show.report import questions
from attcot_analysis.show.report.arms import does_cot_hurt
from attcot_analysis.show.report.compare import compare_runs, report_run

CAUSAL = re.compile(r"because of|caus|due to|leads? to|therefore|reason why", re.IGNORECASE)
SIZES = (30, 20, 60, 40)


@pytest.fixture(scope="module")
def problems():
    return planted_problems(sum(SIZES))


def words(found: CotOutcomes) -> dict[str, str]:
    return {answer.sign.metric.name: answer.word for answer in found.answers()}


def only_hurt(group, rng):
    return group == "hurt"


# --- planted ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plant", "signs"),
    [
        ("early", {"decided_first"}),
        ("stopped", {"stopped_looking"}),
        ("weak", {"twin_not_followed", "no_net_dependence"}),
    ],
)
def test_what_marks_the_hurt_items_is_found_and_nothing_else(problems, plant, signs):
    tables = planted_tables(problems, sizes=SIZES, **{plant: only_hurt})
    found = cot_outcomes({0: tables})
    assert {name for name, word in words(found).items() if word == "yes"} == signs
    assert set(words(found).values()) == {"yes", "inconclusive"}
    shares = found.shares().set_index(["sign", "group"])
    for name in signs:
        assert tuple(shares.loc[(name, "hurt"), ["count", "of"]]) == (30, 30)
        assert shares.loc[(name, "rest"), "count"] == 0 and shares.loc[(name, "helped"), "of"] == 20
    assert not CAUSAL.search(found.describe())


def random_outcomes(rng: np.random.Generator, **shares) -> CotOutcomes:
    """Items whose signs hang on nothing, or on the group as ``sign={group: share}`` says."""
    group = rng.permutation(np.repeat(GROUPS, SIZES))
    table = pd.DataFrame(
        {
            "item": [f"{number}" for number in range(len(group))],
            "seed": 0,
            "response": 0,
            "group": group,
            "direct": "a",
            "cot": "b",
            "direct_correct": np.isin(group, ("hurt", "right")),
            "cot_correct": np.isin(group, ("helped", "right")),
            "looking": 1.0,
            "net": 1.0,
        }
    )
    for name in SIGNS:
        p = pd.Series(group).map(shares.get(name, {})).fillna(0.3)
        table[name] = (rng.random(len(group)) < p).astype(float)
    return CotOutcomes(table)


@pytest.mark.long
def test_where_nothing_is_planted_a_verdict_is_as_rare_as_the_level_says():
    rng = np.random.default_rng(0)
    wrong = [set(words(random_outcomes(rng)).values()) != {"inconclusive"} for _ in range(200)]
    assert sum(wrong) <= 18, "5 % of 200 are 10; 18 is three standard deviations above"


def test_what_holds_of_all_changed_answers_is_not_told_apart_from_them():
    changed = {"hurt": 0.02, "helped": 0.02, "right": 0.8, "wrong": 0.8}
    found = random_outcomes(np.random.default_rng(1), decided_first=changed)
    answer = found.answers()[0]
    assert answer.word == "no" and answer.differences.endswith("so not told apart from these")
    told = random_outcomes(np.random.default_rng(1), decided_first={**changed, "helped": 0.9})
    assert "not told apart" not in told.answers()[0].differences


def test_why_counts_the_signs_of_the_hurt_and_names_those_that_the_rest_show_less():
    seldom = dict.fromkeys(("hurt", "helped", "right", "wrong"), 0.0)
    alike = random_outcomes(
        np.random.default_rng(1), decided_first={**seldom, "hurt": 1, "helped": 1}
    )
    (answer,) = [one for one in alike.answers() if one.word == "yes"]
    title = answer.sign.metric.title
    n = alike.counts["hurt"]
    assert f"Of them, {title}: {n} of {n}; " in alike.why
    assert (
        f"than the rest: {title} (but not more often than the items most like them)." in alike.why
    )
    apart = random_outcomes(np.random.default_rng(1), decided_first={**seldom, "hurt": 1})
    assert apart.why.startswith(f"The items that CoT hurt show more often than the rest: {title}. ")
    fewer = random_outcomes(
        np.random.default_rng(1), decided_first={**dict.fromkeys(seldom, 0.8), "hurt": 0.02}
    )
    assert fewer.why.startswith(f"The items that CoT hurt show less often than the rest: {title}. ")
    nothing = random_outcomes(np.random.default_rng(1), decided_first=seldom)
    assert nothing.why.startswith("No sign is shown to set the items that CoT hurt apart")


def test_paired_accuracy_is_judged_by_its_interval_of_this_checkpoint(problems):
    for sizes, verdict, glance in (
        (
            (40, 10, 60, 40),
            "With CoT this checkpoint is right less often than directly: accuracy 0.467",
            "Yes",
        ),
        (
            (10, 40, 60, 40),
            "With CoT this checkpoint is right more often than directly: accuracy 0.667",
            "No, it helps",
        ),
        (
            (30, 25, 55, 40),
            "Inconclusive: whether it is right more or less often with CoT",
            "",
        ),
        (
            (0, 0, 90, 60),
            "CoT hurt no item and helped none: accuracy 0.600 with CoT and 0.600",
            "No",
        ),
    ):
        found = cot_outcomes({0: planted_tables(problems, sizes=sizes)})
        assert found.headline.startswith(verdict) and found.glance == glance
        assert [found.counts[group] for group in GROUPS] == list(sizes)
        expected = (sizes[1] - sizes[0]) / 150
        assert (
            found.accuracy["value"] == pytest.approx(expected) and found.accuracy["n_items"] == 150
        )
        assert bool(found.answers()) == bool(sizes[0])
    assert found.items("hurt") == [] and found.figure() is not None
    # Read too often to be withheld, and all that CoT leaves unparsed is right directly.
    copies = [found.table.assign(item=found.table["item"] + f" {copy}") for copy in range(4)]
    table = pd.concat(copies, ignore_index=True)
    lost = table.index[table["direct_correct"] == 1][:10]
    table.loc[lost, "cot"], table.loc[lost, "cot_correct"] = None, False
    table.loc[lost, "group"] = "unparsed"
    unparsed = CotOutcomes(table)
    assert not unparsed.unread and unparsed.accuracy["high"] < 0
    assert unparsed.counts["hurt"] == unparsed.counts["helped"] == 0 and unparsed.glance == "Yes"


# --- read off the tables ------------------------------------------------------------------------


def test_signs_are_those_of_plain_loops(pair):
    for name in ("cot_sft", "att_cot"):
        run = pair.run(name)
        cot, direct = (run.read_table(f"answers_{mode}") for mode in ("cot", "direct"))
        found = does_cot_hurt(pair.path(name)).table.set_index("item")
        forced = run.read_table("commitment")
        own = forced[forced["control"] == "rationale"]
        settled = Commitment(own, pair.problems).items().set_index("item")["commitment_step"]
        access, edits = run.read_table("access"), run.read_table("dependence")
        for problem in pair.problems:
            right = [
                bool(table.set_index("item").loc[problem.id, "correct"]) for table in (direct, cot)
            ]
            group = {(1, 0): "hurt", (0, 1): "helped", (1, 1): "right", (0, 0): "wrong"}
            row = found.loc[problem.id]
            if pd.notna(row["direct"]) and pd.notna(row["cot"]):
                assert row["group"] == group[right[0], right[1]]
            assert row["decided_first"] == (settled[problem.id] == 0)
            steps = access[access["item"] == problem.id]
            ratios = []
            for quantity in ("mass", "share"):
                first = np.mean(steps.loc[steps["step"] == 1, quantity])
                last = np.mean(steps.loc[steps["step"] == steps["n_steps"], quantity])
                ratios.append(last / first)
            assert row["looking"] == pytest.approx(max(ratios))
            assert row["stopped_looking"] == (max(ratios) < STOPPED)
            lost = edits[edits["item"] == problem.id].set_index(["edit", "rationale"])
            net = lost.loc[("twin", "fixed"), "delta_log_p"]
            net -= lost.loc[("control", "fixed"), "delta_log_p"]
            assert row["net"] == pytest.approx(net) and row["no_net_dependence"] == (net <= 0)
            followed = lost.loc[("twin", "regenerated"), "followed"]
            assert row["twin_not_followed"] == (not followed)


def test_a_fall_by_dilution_is_no_turning_away_and_one_step_has_no_course(problems):
    tables = planted_tables(problems, sizes=SIZES, stopped=lambda *_: True)
    access = tables["access"]
    assert cot_outcomes({0: tables}).table["stopped_looking"].eq(1).all()
    diluted = access.assign(share=0.8)
    assert cot_outcomes({0: tables | {"access": diluted}}).table["stopped_looking"].eq(0).all()
    one = access[access["step"] == 1].assign(n_steps=1)
    found = cot_outcomes({0: tables | {"access": one}})
    assert found.table["stopped_looking"].isna().all()
    assert "stopped_looking" not in words(found)
    assert "Not measured: had stopped looking." in found.missing


def test_patterns_count_every_item_once(problems):
    tables = planted_tables(problems, sizes=SIZES, early=only_hurt, weak=only_hurt, stopped=never)
    found = cot_outcomes({0: tables}).patterns()
    assert found[["hurt", "helped", "rest"]].sum().tolist() == [30, 20, 100]
    assert found["hurt"].tolist() == [30, 0, 0, 0, 0, 0, 0]
    assert found.loc[0, "reading"].startswith("a prior answers")
    assert found["rest"].tolist() == [0, 0, 0, 100, 0, 0, 0]
    bare = {name: tables[name] for name in ("answers_cot", "answers_direct")}
    unknown = cot_outcomes({0: bare}).patterns()
    assert unknown["rest"].tolist() == [0] * 6 + [100]


def test_the_guide_and_the_report_have_the_same_patterns():
    root = Path(__file__).parents[2]
    guide = (root / "docs/howto/reading-the-report.md").read_text(encoding="utf-8")
    for row in PATTERNS:
        cells = (row[name] for name in ("commitment", "access", "dependence", "reading"))
        assert f"| {' | '.join(cells)} |" in guide
    assert WORDS == questions.WORDS


def test_above_two_percent_unread_no_verdict_is_given(problems):
    few = cot_outcomes({0: planted_tables(problems, sizes=SIZES, early=only_hurt, unparsed=3)})
    assert few.unread == () and few.counts["unparsed"] == 3
    assert few.headline.startswith("An answer is unparsed, so counts as wrong, in 3 of 150 items")
    assert sum(few.counts[group] for group in GROUPS) == 147
    many = cot_outcomes({0: planted_tables(problems, sizes=SIZES, early=only_hurt, unparsed=4)})
    assert many.headline.startswith("2.7% of the CoT answers could not be read, so nothing is said")
    assert not re.search(r"right (more|less) often|Inconclusive", many.headline)
    assert set(words(many).values()) == {"unparsed"} and "p " not in many.counted


def test_few_hurt_items_are_said_to_be_few(problems):
    small = (FEW_HURT - 1, 20, 70, 51)
    assert "Only 9 were hurt" in cot_outcomes({0: planted_tables(problems, sizes=small)}).counted
    large = cot_outcomes({0: planted_tables(problems, sizes=SIZES)})
    assert "Only" not in large.counted


def test_seeds_of_an_item_count_as_one(problems):
    tables = planted_tables(problems, sizes=SIZES)
    one, three = cot_outcomes({0: tables}), cot_outcomes(dict.fromkeys(range(3), tables))
    assert (three.n, three.n_seeds, len(three.table)) == (150, 3, 450)
    pd.testing.assert_frame_equal(
        one.shares()[["value", "low", "high", "n"]], three.shares()[["value", "low", "high", "n"]]
    )
    assert three.counts["hurt"] == 90 and "90 pairs of answers" in three.counted
    assert len(three.items("hurt")) == 30 and "n = 150 items × 3 seeds" in three.headline


def test_samples_are_paired_by_their_number(tmp_path):
    shown = planted_problems(12)
    parts = [planted_tables(shown, sizes=(6, 2, 2, 2), seed=seed) for seed in (1, 2)]
    both = {name: stacked([part[name] for part in parts]) for name in parts[0]}
    found = cot_outcomes({0: both})
    for sample, part in enumerate(parts):
        alone = cot_outcomes({0: part}).table
        among = found.table[found.table["response"] == sample].reset_index(drop=True)
        pd.testing.assert_frame_equal(
            among.drop(columns="response"), alone.drop(columns="response")
        )
    assert found.counted.startswith("CoT hurt 12 pairs of answers") and found.n == 12
    assert "n = 12 items × 2 samples" in found.headline
    assert found.accuracy["value"] == pytest.approx(-4 / 12) and found.accuracy["n_items"] == 12
    greedy = cot_outcomes({0: both | {"answers_direct": parts[0]["answers_direct"]}}).table
    assert (greedy["direct"].iloc[:12].to_numpy() == greedy["direct"].iloc[12:].to_numpy()).all()
    run = planted_run(tmp_path / "run", shown, both)
    text = report_run(run, examples=0, items=3).read_text()
    assert "planted gave 2 responses to every item" in text and text.count("<article") == 3


def test_the_result_is_described_and_drawn(problems):
    found = cot_outcomes({0: planted_tables(problems, sizes=SIZES)})
    said = found.describe()
    assert said.startswith(found.headline) and "nan" not in said
    assert all(sign.asked in said for sign in SIGNS.values())
    assert isinstance(found.figure(), matplotlib.figure.Figure)
    assert found.group(found.items("hurt")[0]) == "hurt"
    with pytest.raises(MeasureError, match="no group 'best'"):
        found.items("best")
    for column in CotOutcomes.columns:
        with pytest.raises(MeasureError, match=f"The table outcomes lacks {column};"):
            CotOutcomes(found.table.drop(columns=column))
    with pytest.raises(MeasureError, match="has the group 'best'"):
        CotOutcomes(found.table.assign(group="best"))
    with pytest.raises(MeasureError, match="twice for a seed and response"):
        CotOutcomes(pd.concat([found.table, found.table]))


def test_tables_that_do_not_fit_are_one_sentence(problems):
    tables = planted_tables(problems, sizes=SIZES)
    direct = tables["answers_direct"]
    for change, message in (
        (None, "no direct answers, so whether CoT hurts is not known; measure 'direct' as well"),
        (direct.iloc[1:], "share 149 of 150 and 149 items"),
        (pd.concat([direct, direct]), "answers_direct holds an item twice"),
    ):
        changed = {name: table for name, table in tables.items() if name != "answers_direct"}
        changed |= {} if change is None else {"answers_direct": change}
        with pytest.raises(MeasureError, match=message):
            does_cot_hurt(changed)
    with pytest.raises(MeasureError, match="No run was given"):
        cot_outcomes({})


# --- the page -----------------------------------------------------------------------------------

ON_PAGE = (15, 6, 24, 15)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outcomes")
    shown = planted_problems(sum(ON_PAGE))
    tables = planted_tables(shown, sizes=ON_PAGE, early=only_hurt, text=f"look{HOSTILE}")
    run = planted_run(folder / "run", shown, tables)
    return report_run(run, examples=0), does_cot_hurt(run)


def test_the_section_stands_first_and_says_what_is_planted(page):
    text = page[0].read_text()
    main_part = text[text.index("<main") :]
    section = main_part[: main_part.index("</section>")]
    assert main_part.index('<section id="hurt">') < main_part.index('<section id="answer">')
    assert re.search(r"<section id=\"(\w+)\"", main_part)[1] == "hurt"
    said = unescape(re.sub(r"<[^>]+>", "", section))
    assert page[1].headline in said and page[1].counted in said and page[1].why in said
    assert "Does CoT hurt, and why?" in said and not page[1].glance, "inconclusive is said by it"
    (first, *others) = re.findall(r'class="word (\w+)">([^<]+)', section)
    assert first == ("told", "Yes")
    assert set(others) == {("inconclusive", "Inconclusive")} and len(others) == 3
    for sign in SIGNS.values():
        assert sign.asked in said and sign.metric.falsifier in said
    assert not CAUSAL.search(said)
    assert text.count("<script") == 1 and "&lt;script&gt;alert(1)" in text


def test_links_lead_to_the_hurt_items_which_come_first(page):
    text = page[0].read_text()
    section = text[text.index('<section id="hurt">') : text.index('<section id="answer">')]
    articles = dict(
        re.findall(r'<article class="item" id="(item-\d+)".*?<code>([^<]+)', text, re.S)
    )
    links = re.findall(r'<a href="#(item-\d+)">([^<]+)</a>', section)
    assert [link for link, _ in links] == [f"item-{place}" for place in range(12 + 6)]
    assert all(articles[link] == item for link, item in links)
    hurt, helped = page[1].items("hurt"), page[1].items("helped")
    assert [item for _, item in links] == [*hurt[:12], *helped]
    assert "; 3 are not in the item browser" in section and len(articles) == 24
    strip = json.loads(unescape(re.search(r'data-gallery="([^"]+)"', text)[1]))["entries"]
    kinds = [kind for entry in strip for kind in entry["groups"]]
    assert kinds[:18] == ["CoT hurt"] * 12 + ["CoT helped"] * 6 and "CoT hurt" not in kinds[18:]
    assert "Chosen because CoT hurt: the direct answer (" in text


def test_the_command_prints_it_first(page, tmp_path, capsys):
    run = page[0].parent
    argv = ["report", str(run), "--out", str(tmp_path / "r.html"), "--examples", "0", "--quiet"]
    assert main([*argv, "--items", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == page[1].headline


def test_without_direct_answers_the_page_says_what_to_measure(tmp_path):
    shown = planted_problems(12)
    tables = planted_tables(shown, sizes=(3, 3, 3, 3))
    del tables["answers_direct"], tables["access"]
    what = ["answers", "text_only", "commitment", "dependence"]
    run = planted_run(tmp_path / "run", shown, tables, what=what)
    text = report_run(run, examples=0, items=2).read_text()
    section = text[text.index('<section id="hurt">') : text.index('<section id="answer">')]
    assert "There are no direct answers, so whether CoT hurts is not known" in section
    assert "<table" not in section and "Not measured: direct, access." in text
    with pytest.raises(MeasureError, match="no direct answers"):
        does_cot_hurt(run)
    unfinished = planted_run(tmp_path / "unfinished", shown, tables)
    with pytest.raises(RunError, match="lacks answers_direct, access"):
        does_cot_hurt(unfinished)


def test_two_tables_of_answers_are_enough(tmp_path):
    shown = planted_problems(12)
    tables = planted_tables(shown, sizes=(3, 3, 3, 3))
    bare = {name: tables[name] for name in ("answers_cot", "answers_direct")}
    run = planted_run(tmp_path / "run", shown, bare, what=["answers", "direct"])
    text = report_run(run, examples=0, items=2).read_text()
    assert "CoT hurt 3 items" in text and "Not measured: decided before the first step" in text
    assert does_cot_hurt(run).answers() == []


def test_rationales_of_another_model_are_no_comparison(tmp_path):
    shown = planted_problems(12)
    tables = planted_tables(shown, sizes=(3, 3, 3, 3))
    run = planted_run(tmp_path / "run", shown, tables, generations={"foreign": True})
    with pytest.raises(MeasureError, match="written by another model"):
        does_cot_hurt(run)
    assert (
        "written by another model, so whether" in report_run(run, examples=0, items=1).read_text()
    )


def test_a_comparison_keeps_its_verdicts_behind_both_arms(pair, tmp_path):
    found = compare_runs(
        pair.path("cot_sft"),
        pair.path("att_cot"),
        tmp_path / "ab",
        names=("cot_sft", "att_cot"),
        models=False,
        items=4,
    )
    text = found.report.read_text()
    section = text[text.index('<section id="hurt">') : text.index('<section id="answer">')]
    assert section.index("<h3>CoT-SFT</h3>") < section.index("<h3>Att-CoT</h3>")
    for name in ("cot_sft", "att_cot"):
        outcomes = does_cot_hurt(pair.path(name))
        assert f"<b>{outcomes.glance}.</b> {outcomes.headline}" in unescape(section)
    assert found.answers.verdicts in unescape(text) and "<figure" not in section
