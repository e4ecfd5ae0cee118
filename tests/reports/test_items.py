"""Items for the browser: which are chosen, and what their arms did, straight from the tables."""

import pytest

from attcot_analysis.measures.commitment import Commitment
from attcot_analysis.measures.samples import stacked
from attcot_analysis.problems import parse_response
from attcot_analysis.show.report.arms import read_arm
from attcot_analysis.show.report.items import differing_items, example_problems, report_items

PAIR = ("cot_sft", "att_cot")


@pytest.fixture(scope="module")
def tables(pair):
    return {name: read_arm(pair.path(name)).tables for name in PAIR}


def test_an_item_says_what_the_tables_say(pair, tables):
    items = report_items(tables, pair.problems, PAIR, 6)
    assert [item.problem.id for item in items] == [problem.id for problem in pair.problems]
    for item in items:
        for arm in PAIR:
            kinds = tables[arm][0]
            answers = kinds["answers_cot"].set_index("item").loc[item.problem.id]
            done = item.arms[arm]
            assert (done.text, done.answer) == (answers["text"], answers["answer"])
            assert item.right(arm) == bool(answers["correct"])
            assert [step.text for step in done.steps[1:]] == list(
                parse_response(done.text).step_texts
            )
            forced = kinds["commitment"]
            forced = forced[
                (forced["item"] == item.problem.id) & (forced["control"] == "rationale")
            ]
            (settled,) = Commitment(forced, [item.problem]).items()["commitment_step"]
            assert done.settled == settled
            last = forced[forced["step"] == forced["n_steps"]].set_index("candidate")["p"]
            assert done.steps[-1].best == last.idxmax()
            assert done.steps[-1].p_final == done.steps[-1].p_best == pytest.approx(last.max())
            mass = kinds["access"].groupby(["item", "step"])["mass"].mean()
            assert done.steps[1].mass == pytest.approx(mass[item.problem.id, 1])
            edits = kinds["dependence"].set_index(["item", "edit", "rationale"])["answer_after"]
            for kind in ("twin", "control", "blank"):
                assert done.edits[kind] == edits[item.problem.id, kind, "regenerated"]
            assert done.seed is None


def test_how_often_the_forced_answer_is_not_the_stated_one_is_counted(pair, tables):
    kinds = tables["att_cot"][0]
    answers = kinds["answers_cot"].copy()
    finals = Commitment(kinds["commitment"], pair.problems).items(thresholds=())
    finals = finals[finals["control"] == "rationale"].set_index("item")
    answers["answer"] = answers["item"].map(finals["final"]).astype(object)
    names = list(answers["item"])
    other = next(one for one in pair.problems[0].candidates if one != answers["answer"][0])
    for planted, said in ((other, f", as on 1 of {len(names)} items"), (None, None)):
        answers.loc[0, "answer"] = planted
        said = said or f", as on 0 of {len(names) - 1} items"
        own = {"att_cot": {0: kinds | {"answers_cot": answers}}}
        items = report_items(own, pair.problems, ("att_cot", "att_cot"), 6)
        assert {item.arms["att_cot"].unlike for item in items} == {said}


def test_of_several_samples_the_first_is_shown_beside_the_answers_of_all(pair, tables):
    kinds = tables["att_cot"][0]
    answers = kinds["answers_cot"]
    others = {name: [table, table, table] for name, table in kinds.items()}
    others["answers_cot"] = [answers, answers.assign(answer=None), answers.assign(answer=None)]
    sampled = {name: stacked(tables) for name, tables in others.items()}
    for item in report_items({"att_cot": {0: sampled}}, pair.problems, ("att_cot", "att_cot"), 6):
        (plain,) = report_items(
            {"att_cot": tables["att_cot"]}, [item.problem], ("att_cot", "att_cot"), 1
        )
        shown, alone = item.arms["att_cot"], plain.arms["att_cot"]
        assert (shown.text, shown.settled) == (alone.text, alone.settled)
        assert repr(shown.steps) == repr(alone.steps)
        assert shown.samples == {None: 2, alone.answer: 1} and not alone.samples
        assert next(iter(shown.samples)) is None


def test_half_of_few_items_are_those_that_differ_and_both_kinds_are_told_apart(pair, tables):
    differing = differing_items(tables, pair.problems, PAIR)
    assert differing, "the two arms were to differ on some item"
    for problem in differing:
        right = [
            tables[arm][0]["answers_cot"].set_index("item").loc[problem.id, "correct"]
            for arm in PAIR
        ]
        assert right[0] != right[1]
    items = report_items(tables, pair.problems, PAIR, 2)
    assert len(items) == 2
    chosen = [item for item in items if item.note.startswith("Chosen because CoT-SFT and Att-CoT")]
    assert [item.problem.id for item in chosen] == [differing[0].id]
    (other,) = [item for item in items if item not in chosen]
    assert other.note.startswith("One of the first items")
    assert example_problems(tables, pair.problems, PAIR, 6)[0] is differing[0]


def test_a_response_without_a_rationale_has_no_steps(pair, tables):
    item = pair.problems[0].id
    kinds = dict(tables["att_cot"][0])
    for name in ("commitment", "access"):
        kinds[name] = kinds[name][kinds[name]["item"] != item]
    answers = kinds["answers_cot"].copy()
    answers.loc[answers["item"] == item, ["text", "answer"]] = ["I do not know", None]
    kinds["answers_cot"] = answers
    silent = {"cot_sft": tables["cot_sft"], "att_cot": {0: kinds, 1: kinds}}
    found = {one.problem.id: one for one in report_items(silent, pair.problems, PAIR, 6)}
    done = found[item].arms["att_cot"]
    assert (done.answer, done.steps, done.settled, done.seed) == (None, (), None, 0)
    assert not found[item].right("att_cot")
