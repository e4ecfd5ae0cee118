"""Datasets as they are published come out as the problems that they are."""

import json

import dataset_files
import numpy as np
import pytest
from dataset_files import FILES, made, picture
from PIL import Image

from attcot_analysis.cli import main
from attcot_analysis.errors import ProblemError
from attcot_analysis.problems import Problem, load_problems
from attcot_analysis.problems.coverage import data_coverage
from attcot_analysis.problems.data import ADAPTERS, check_data, convert_data, read_data
from attcot_analysis.problems.data.clevr import ATTRIBUTES, run
from attcot_analysis.problems.data.fields import rationale_steps
from attcot_analysis.problems.data.records import hub_rows
from attcot_analysis.problems.folder import problem_record


def read(tmp_path, format):
    return list(read_data(made(tmp_path, format), format))


def extent(mask):
    """The box of the pixels that a mask holds."""
    rows, cols = np.nonzero(mask)
    return cols.min(), rows.min(), cols.max() + 1, rows.max() + 1


def pixels(image):
    return image.size, image.tobytes()


# --- every format -------------------------------------------------------------------------------


def test_every_format_has_files_here():
    assert set(FILES) == set(ADAPTERS)


@pytest.mark.parametrize("format", FILES)
def test_every_format_checks_converts_and_comes_back(tmp_path, format, capsys):
    path = str(made(tmp_path, format))
    assert main(["data", "check", path, "--format", format]) == 0
    said = capsys.readouterr().out
    assert "Measured on all: accuracy" in said and "wrong" not in said
    out = tmp_path / "out"
    assert main(["data", "convert", path, "--format", format, "--out", str(out)]) == 0
    direct, back = list(read_data(path, format)), load_problems(out)
    assert [problem_record(p) for p in direct] == [problem_record(p) for p in back]
    for one, other in zip(direct, back, strict=True):
        assert pixels(one.image) == pixels(other.image)
        assert (one.twin is None) == (other.twin is None)
        if one.twin is not None:
            assert pixels(one.twin.image) == pixels(other.twin.image)


# --- one's own data -----------------------------------------------------------------------------


def test_own_data(tmp_path):
    kettle, cups = read(tmp_path, "jsonl")
    assert [step.boxes for step in kettle.steps] == [(), ((4.0, 4.0, 20.0, 20.0),)]
    assert kettle.twin.answer == "blue" and kettle.control.answer == "red"
    assert pixels(kettle.twin.image) == pixels(picture(1))
    assert cups.id == "item-2" and cups.candidates == () and cups.tolerance == 0.1
    assert [step.text for step in cups.steps] == ["One cup is left.", "Two cups are right."]
    assert cups.evidence == ((0.0, 0.0, 10.0, 10.0),)
    assert cups.step_boxes(5) == cups.evidence and kettle.step_boxes(1) == ()


GOOD = {"image": "photos/1.png", "question": "What?", "answer": "red"}
TWIN = {"image": "photos/1-twin.png", "answer": "blue"}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"image": "photos/1.png", "answer": "red"}, "line 2 lacks question; it has image, answer"),
        ({**GOOD, "image": "photos/9.png"}, "line 2: picture photos/9.png does not exist in"),
        ({**GOOD, "image": "mine.jsonl"}, "line 2: picture mine.jsonl is damaged or no picture"),
        ({**GOOD, "image": 3}, "line 2: image is 3"),
        ({**GOOD, "candidate": 1}, "line 2 has the unknown field 'candidate'; is it candidates?"),
        ({**GOOD, "candidates": ["red"]}, "line 2: Problem item-2: candidates are"),
        ({**GOOD, "candidates": ["blue", "green"]}, "'red' is not one of the candidates"),
        ({**GOOD, "candidates": ["red", "red"]}, "all different"),
        ({**GOOD, "answer": ""}, "the answer is empty"),
        ({**GOOD, "boxes": [[0, 0, 900, 9]]}, "does not lie in its 64x48"),
        ({**GOOD, "tolerance": 2}, "tolerance is 2"),
        ({**GOOD, "tolerance": "5%"}, "tolerance is '5%'; expected a number"),
        ({**GOOD, "steps": ["a"], "rationale": "b"}, "both rationale and steps"),
        ({**GOOD, "rationale": 3}, "rationale is 3"),
        ({**GOOD, "steps": 3}, "steps is 3; expected a list"),
        ({**GOOD, "candidates": "red"}, "candidates is 'red'; expected a list"),
        ({**GOOD, "twin": "photos/2.png"}, "line 2, twin holds 'photos/2.png'"),
        ({**GOOD, "twin": {"image": "photos/2.png"}}, "line 2, twin lacks answer"),
        ({**GOOD, "twin": {**TWIN, "answer": "red"}}, "twin's answer must differ"),
        ({**GOOD, "twin": {**TWIN, "colour": 1}}, "line 2, twin has the unknown field"),
        ({**GOOD, "id": "kettle"}, "Problem kettle is there twice"),
    ],
)  # fmt: skip
def test_a_fault_is_one_sentence_with_its_line(tmp_path, record, message):
    path = made(tmp_path, "jsonl")
    first, _ = path.read_text().splitlines()
    path.write_text(first + "\n")
    dataset_files.lines(tmp_path / "two.jsonl", [record])
    with path.open("a") as file:
        file.write((tmp_path / "two.jsonl").read_text() + "{\n")
    found = check_data(path)
    assert not found.holds and found.coverage.n == 1
    wrong, broken = found.faults
    assert (message in wrong and "\n" not in wrong and str(path) in wrong) or "twice" in wrong
    assert "line 3 is not valid JSON" in broken


def test_faulty_records_are_refused_or_skipped(tmp_path, capsys):
    path = made(tmp_path, "jsonl")
    path.write_text(path.read_text() + '{"image": "none.png"}\n')
    out = tmp_path / "out"
    arguments = ["data", "convert", str(path), "--out", str(out)]
    assert main(arguments) == 1
    assert "line 3 lacks question" in capsys.readouterr().err and not out.exists()
    assert main([*arguments, "--skip-faulty"]) == 0
    assert "1 records are wrong" in capsys.readouterr().out
    assert len(load_problems(out)) == 2


def test_check_says_what_cannot_be_measured(tmp_path, capsys):
    path = made(tmp_path, "jsonl")
    lines = path.read_text().splitlines()
    dataset_files.lines(path, [GOOD, {**GOOD, "image": "photos/2.png"}])
    assert main(["data", "check", str(path)]) == 0
    said = capsys.readouterr().out
    assert "Not measured: the share of attention on the evidence" in said
    assert "Not measured: commitment" in said and "All items have the same answer" in said
    path.write_text("\n".join(lines))
    assert main(["data", "check", str(path)]) == 0
    said = capsys.readouterr().out
    assert "Measured on 1 of 2 items: commitment" in said and "same answer" not in said


def test_pictures_are_upright_and_on_white(tmp_path):
    path = made(tmp_path, "jsonl")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = path.parent / "photos" / "1.png"
    picture(5).save(photo, exif=exif)
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(path.parent / "photos" / "2.png")
    dataset_files.lines(path, [GOOD, {**GOOD, "image": "photos/2.png"}])
    turned, clear = read_data(path)
    assert turned.image.size == (48, 64)
    assert pixels(turned.image) == pixels(picture(5).transpose(Image.Transpose.ROTATE_270))
    assert clear.image.getpixel((3, 3)) == (255, 255, 255)
    Image.new("I;16", (6, 4), 0x7FFF).save(photo)
    assert next(iter(read_data(path))).image.getpixel((3, 3)) == (127, 127, 127)


@pytest.mark.parametrize("source", ["nowhere", "."])
def test_no_such_data(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProblemError, match=r"does not exist|holds 0 \.jsonl files"):
        check_data(source)
    with pytest.raises(ProblemError, match="no data format 'josnl'; choose from jsonl"):
        check_data(source, "josnl")


# --- CLEVR --------------------------------------------------------------------------------------


def test_clevr_evidence_twins_and_controls(tmp_path):
    count, query = read(tmp_path, "clevr")
    assert count.answer == "2" and count.candidates == tuple(map(str, range(11)))
    assert len(count.evidence) == 2
    reds = np.asarray(count.image)[..., 0] == 200
    drawn = [
        extent(part) for part in (reds & (np.arange(480) < 200), reds & (np.arange(480) > 200))
    ]
    np.testing.assert_allclose(count.evidence, drawn, atol=1)
    assert count.twin.answer == "1" and count.metadata["twin"] == "recoloured"
    ((x0, y0, x1, y1),) = count.twin.boxes
    changed = (np.asarray(count.twin.image) != np.asarray(count.image)).any(-1)
    assert extent(changed) == (x0, y0, x1, y1) and (changed & reds).any()
    assert count.control.answer == "2" and count.control.boxes == query.twin.boxes
    assert query.answer == "blue" and len(query.evidence) == 2
    assert query.twin.answer in ATTRIBUTES["color"] and query.control.answer == "blue"


def test_clevr_answers_as_its_generator_writes_them(tmp_path):
    path = made(tmp_path, "clevr")
    questions = path / "questions" / "CLEVR_val_questions.json"
    held = json.loads(questions.read_text())
    count, _ = held["questions"]
    count["answer"] = 2
    exist = [*count["program"][:2], {"type": "exist", "inputs": [1], "side_inputs": []}]
    for node in count["program"]:
        node["type"], node["side_inputs"] = node.pop("function"), node.pop("value_inputs")
    held["questions"] += [count | {"question_index": 5, "answer": True, "program": exist}]
    questions.write_text(json.dumps(held))
    numbered, _, there = read_data(path, "clevr")
    assert numbered.answer == "2" and numbered.twin.answer == "1"
    assert (there.answer, there.candidates) == ("yes", ("yes", "no"))


def test_clevr_refuses_questions_of_other_scenes(tmp_path):
    path = made(tmp_path, "clevr")
    scenes = path / "scenes" / "CLEVR_val_scenes.json"
    scenes.write_text(scenes.read_text().replace('"red"', '"cyan"'))
    found = check_data(path, "clevr")
    assert "gives '0' on the scene and its answer is '2'" in found.faults[0]
    scenes.write_text(scenes.read_text().replace('"image_index": 7', '"image_index": 8'))
    assert "scene of its picture is not there" in check_data(path, "clevr").faults[0]


THINGS = [
    {"color": "red", "shape": "cube", "size": "large", "material": "metal"},
    {"color": "blue", "shape": "cube", "size": "small", "material": "metal"},
    {"color": "red", "shape": "sphere", "size": "small", "material": "rubber"},
]
RELATIONS = {"left": [[], [0], [0, 1]]}


def nodes(*given):
    return [dict(zip(("function", "inputs", "value_inputs"), node, strict=True)) for node in given]


@pytest.mark.parametrize(
    ("program", "answer"),
    [
        ([("count", [0], [])], "3"),
        ([("filter_color", [0], ["green"]), ("exist", [1], [])], "no"),
        ([("filter_shape", [0], ["sphere"]), ("unique", [1], []), ("same_color", [2], []),
          ("count", [3], [])], "1"),
        ([("filter_shape", [0], ["sphere"]), ("unique", [1], []), ("relate", [2], ["left"]),
          ("count", [3], [])], "2"),
        ([("filter_color", [0], ["red"]), ("filter_shape", [0], ["cube"]), ("union", [1, 2], []),
          ("count", [3], [])], "3"),
        ([("filter_color", [0], ["red"]), ("filter_shape", [0], ["cube"]),
          ("intersect", [1, 2], []), ("unique", [3], []), ("query_size", [4], [])], "large"),
        ([("filter_color", [0], ["red"]), ("count", [1], []), ("filter_size", [0], ["small"]),
          ("count", [3], []), ("equal_integer", [2, 4], [])], "yes"),
        ([("filter_color", [0], ["red"]), ("count", [1], []), ("count", [0], []),
          ("less_than", [2, 3], [])], "yes"),
        ([("filter_color", [0], ["red"]), ("count", [1], []), ("count", [0], []),
          ("greater_than", [2, 3], [])], "no"),
        ([("filter_shape", [0], ["cube"]), ("unique", [1], []), ("query_color", [2], [])], None),
    ],
)  # fmt: skip
def test_programs_give_the_answers_counted_by_hand(program, answer):
    assert run(nodes(("scene", [], []), *program), THINGS, RELATIONS).answer == answer


# --- the others ---------------------------------------------------------------------------------


def test_chartqa_boxes_of_what_is_named(tmp_path):
    again, bars, pie = read(tmp_path, "chartqa")
    assert again.id != bars.id and again.evidence == bars.evidence
    assert bars.evidence == ((25.0, 10.0, 35.0, 40.0),) and bars.candidates == ()
    assert bars.tolerance == 0.05
    assert pie.evidence == ((8.0, 8.0, 28.0, 28.0), (30.0, 4.0, 42.0, 10.0))
    assert pie.candidates == ("Yes", "No") and pie.tolerance == 0
    rows = list(read_data(dataset_files.chartqa_rows(tmp_path / "rows"), "chartqa"))
    assert [p.answer for p in rows] == ["12", "No"] and not rows[0].evidence
    assert [p.metadata["source"] for p in rows] == ["human", "augmented"]


def test_visual_cot_boxes_are_scaled_with_the_picture(tmp_path):
    girl, dog = read(tmp_path, "visual-cot")
    assert girl.evidence == ((10.0, 5.0, 30.0, 45.0),)
    assert [s.text for s in girl.steps] == ["We look for a shirt.", "The girl wears it."]
    assert girl.candidates == () and dog.candidates == ("Yes", "No") and dog.answer == "No"
    (tmp_path / "talk").mkdir()
    talk = list(read_data(dataset_files.viscot(tmp_path / "talk"), "visual-cot"))
    assert len({p.id for p in talk}) == 2
    assert talk[0].question == "What is blue?" and talk[0].answer == "The car."
    assert talk[0].evidence == ((4.0, 4.0, 20.0, 20.0),)


def test_choices_are_listed_in_the_question(tmp_path):
    first, second = read(tmp_path, "m3cot")
    assert (first.answer, second.answer) == ("the right one", "the left one")
    assert first.question.endswith("A) the left one\nB) the right one")
    assert first.question.startswith("Two magnets are shown.\nWhich")
    assert [step.text[-6:] for step in first.steps] == ["clips.", " five."]
    smoker, _ = read(tmp_path, "a-okvqa")
    assert smoker.answer == "cigarette" and "D) cigarette" in smoker.question
    assert pixels(smoker.image)[0] == (64, 48) and len(smoker.steps) == 1
    (row,) = read_data(dataset_files.a_okvqa_rows(tmp_path / "rows"), "a-okvqa")
    assert row.answer == "b" and row.steps == ()


def test_answers_that_are_withheld_are_a_fault(tmp_path):
    path = made(tmp_path, "a-okvqa")
    path.write_text(path.read_text().replace('"correct_choice_idx": 3, ', ""))
    assert "the test split has no answers" in check_data(path, "a-okvqa").faults[0]


def test_vstar_boxes_and_letters(tmp_path):
    first, second = read(tmp_path, "vstar")
    assert (first.answer, second.answer) == ("cotton", "rubber")
    assert first.evidence == ((10.0, 12.0, 18.0, 18.0),)
    assert "Answer with" not in first.question and "B) cotton" in first.question
    assert first.metadata["targets"] == "glove"


def test_naturalbench_twins_are_the_other_photograph(tmp_path):
    problems = read(tmp_path, "naturalbench")
    assert len(problems) == 8
    first, second = problems[:2]
    assert (first.answer, first.twin.answer) == ("Yes", "No")
    assert pixels(first.twin.image) == pixels(second.image) and second.image.size == (48, 64)
    asked = problems[4]
    assert asked.candidates == ("on the mat", "in the box") and asked.answer == "on the mat"
    assert asked.question == "Where is the cat?\nA) on the mat\nB) in the box"
    assert problems[6].answer == "the mat" and problems[6].twin.answer == "the box"


def test_vilp_prior_is_the_first_answer(tmp_path):
    problems = read(tmp_path, "vilp")
    assert [p.answer for p in problems[:3]] == ["screwdriver", "hammer", "pen"]
    assert {p.habitual for p in problems} == {"screwdriver"}
    assert [p.twin.answer for p in problems[:3]] == ["hammer", "pen", "screwdriver"]


def test_rows_of_the_hub_are_those_of_the_file(tmp_path):
    path = made(tmp_path, "vilp")
    rows = [row.value for row in hub_rows(str(path.parent), "train")]
    assert [row["answer2"] for row in rows] == ["hammer", "hammer"]
    assert isinstance(rows[0]["image1"], dict | Image.Image)
    with pytest.raises(ProblemError, match="cannot be loaded from the hub"):
        list(hub_rows(str(path.parent), "no-such-split"))
    with pytest.raises(ProblemError, match=r"^\./no/such is not a file here"):
        list(read_data("./no/such", "vilp"))


@pytest.mark.parametrize(
    ("format", "answers", "asked"),
    [
        ("cv-bench", ["below", "above"], "Where is the cup (marked A. or B)?\nA) above\nB) below"),
        ("blink", ["3", "1"], "How many?\nA) 1\nB) 3"),
        ("mmstar", ["It is below.", "The box is on the book."],
         "Which is it?\nA) The box is on the book.\nB) It is below.\nC) None\nD) Both"),
        ("scienceqa", ["a dog", "a cat"],
         "Look at the picture.\nWhich is it?\nA) a cat\nB) a dog"),
        ("vqa-rad", ["Yes", "left lung"], "Is it enlarged?"),
        ("slake", ["Liver", "test"], "Which organ?"),
        ("charxiv", ["R1", "R1"], "Which is highest?"),
        ("geometry3k", ["2 \\sqrt { 221 }", "3"], "Find x."),
        ("hallusionbench", ["Yes", "No"], "Is the left circle larger?"),
    ],
)  # fmt: skip
def test_tables_are_read_by_their_columns(tmp_path, format, answers, asked):
    problems = read(tmp_path, format)
    assert [one.answer for one in problems] == answers and problems[0].question == asked
    assert pixels(problems[0].image)[0] == (64, 48)


def test_rows_that_a_table_cannot_give(tmp_path):
    path = made(tmp_path, "blink")
    row = {"idx": "a", "question": "Which?", "choices": ["x", "y"], "answer": "(C)",
           "image_1": dataset_files.stored(1), "image_2": None}  # fmt: skip
    second = row | {"idx": "b", "answer": "(A)", "image_2": dataset_files.stored(2)}
    dataset_files.table(path, [row, second, row | {"answer": None}])
    letter, missing = check_data(path, "blink").faults
    assert "its answer '(C)' is not a letter of its 2 choices" in letter
    assert "row 3 has no answer in answer" in missing
    dataset_files.table(path, [second])
    (problem,) = read_data(path, "blink")
    assert list(map(pixels, problem.images)) == [pixels(picture(at, (64, 48))) for at in (1, 2)]
    dataset_files.table(path, [second | {"image_1": None, "image_2": None}])
    assert "has no picture" in check_data(path, "blink").faults[0]


def test_hallusionbench_twins_are_the_other_pictures_of_a_set(tmp_path):
    path = made(tmp_path, "hallusionbench")
    first, _ = json.loads(path.read_text())
    dataset_files.save(path.parent / "VD" / "illusion" / "0_1.png", 2)
    other = first | {"figure_id": "1", "gt_answer": "0", "filename": "./VD/illusion/0_1.png"}
    none = first | {"figure_id": "2", "gt_answer": "0", "visual_input": "0", "filename": None}
    path.write_text(json.dumps([none, first, other, other | {"set_id": "1"}]))
    found = check_data(path, "hallusionbench")
    assert len(found.faults) == 1 and "has no picture" in found.faults[0]
    one, two, alone = read_data(path, "hallusionbench", faults=[])
    assert one.twin.answer == "No" and pixels(one.twin.image) == pixels(two.image)
    assert two.twin.answer == "Yes" and pixels(two.twin.image) == pixels(one.image)
    assert alone.twin is None


def test_answers_that_are_sentences_are_said(tmp_path):
    path = made(tmp_path, "jsonl")
    long = GOOD | {"answer": "The person in the green jacket is sitting on the fence."}
    dataset_files.lines(path, [GOOD, long, long | {"candidates": ["a", long["answer"]]}])
    said = " ".join(check_data(path).coverage.warnings)
    assert "answers of 1 open items are sentences" in said


def test_answers_of_charts_that_are_lists(tmp_path):
    path = made(tmp_path, "chartqa") / "test_human.json"
    path.write_text(path.read_text().replace('"1,200"', '"[2015, 2016]"'))
    years, _ = read_data(path, "chartqa")
    assert years.scoring == "list" and years.tolerance == 0


# --- parts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("1. One thing. 2. Another.", ["One thing.", "Another."]),
        ("Step 1: look.\nStep 2: count to 3. Then stop.", ["look.", "count to 3. Then stop."]),
        ("First line\n\n- second line", ["First line", "second line"]),
        ("It costs 3.50 here. So it is cheap! Is it?", ["It costs 3.50 here.", "So it is cheap!",
                                                       "Is it?"]),
        ("no end", ["no end"]),
        ("  ", []),
    ],
)  # fmt: skip
def test_rationales_become_steps(text, steps):
    assert [step.text for step in rationale_steps(text)] == steps


def test_coverage_counts_items():
    open_one = Problem("a", picture(), "What?", (), "x")
    closed = Problem("b", picture(), "What?", ("x", "y"), "y", evidence=((0, 0, 4, 4),))
    found = data_coverage([open_one, closed])
    assert {part.needs: part.n for part in found.parts}["candidate answers"] == 1
    assert sum("Not measured" in gap for gap in found.gaps) == 3
    assert "2 items." in str(found) and "fine-tune on: 0 of 2" in str(found)


def test_limits_and_converting_nothing(tmp_path):
    path = made(tmp_path, "jsonl")
    assert convert_data(path, tmp_path / "one", limit=1).coverage.n == 1
    path.write_text("\n")
    with pytest.raises(ProblemError, match="No problems"):
        convert_data(path, tmp_path / "none")
    assert not (tmp_path / "none").exists() and not check_data(path).holds


def test_steps_of_mm_gcot_have_the_boxes_that_they_name(tmp_path):
    first, other = read_data(made(tmp_path, "mm-gcot"), "mm-gcot")
    assert (first.id, first.candidates, other.candidates) == ("mm-gcot-judge-1", ("Yes", "No"), ())
    tray, cup, last = first.steps
    assert tray.boxes == ((10, 10, 100, 50),) and not last.boxes
    assert cup.boxes[0] == pytest.approx((50, 20, 70, 35)) and first.evidence == cup.boxes


@pytest.mark.parametrize(
    ("name", "options", "answers"),
    [
        ("treebench", ("running", "sitting", "standing", "jumping"), ["sitting", "standing"]),
        ("we-math", ("F", "D", "B", "I", "No correct answer"), ["I", "3, 50, 40."]),
    ],
)
def test_options_in_one_text_are_cut_at_their_letters(tmp_path, name, options, answers):
    found = list(read_data(made(tmp_path, name), name))
    assert found[0].candidates == options and [one.answer for one in found] == answers
    assert found[0].question.count("\n") == len(options)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("A. 40, 50;B. 40, 60;C. 40, 60", "lists an option twice"),
        ("A. It turns.; B. No.; F. No correct answer", "are not in the order A, B, C"),
    ],
)
def test_options_of_we_math_that_cannot_be_told_apart_are_refused(tmp_path, option, message):
    path = made(tmp_path, "we-math")
    first, _ = json.loads(path.read_text())
    path.write_text(json.dumps([first, first | {"option": option}]))
    assert message in check_data(path, "we-math").faults[0]
