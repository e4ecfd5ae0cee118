"""Options, answers and pictures in the spellings and forms in which datasets are published."""

import base64
import json

import pytest
from dataset_files import a_okvqa, naturalbench, picture, save, stored, table, vstar
from real import needs_real_data, real_data

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.data import check_data, read_data
from attcot_analysis.problems.data.fields import with_options


def natural(path, asked, kind="multiple_choice"):
    """NaturalBench rows of questions with the answers that the two pictures have."""
    rows = [
        {
            "Index": at,
            "Image_0": stored(1),
            "Image_1": stored(2),
            **{f"Question_{n}": question for n in (0, 1)},
            **{f"Image_{n}_Question_{m}": answers[n] for n in (0, 1) for m in (0, 1)},
            "Question_Type": kind,
        }
        for at, (question, answers) in enumerate(asked)
    ]
    return table(path, rows)


END = "Please output the letter corresponding to the correct option."


@pytest.mark.parametrize(
    "options",
    [
        "\nOption: A:From below; B:From the top.;" + END,
        "\nOption: A: From below. B: From the top." + END,
        " Options: (A) From below (B) From the top.",
        "\nOption: A. From below; B. From the top.",
        "\nOptions:\na) From below\nb) From the top.",
        " Option A: From below; B: From the top.; Please answer with A or B.",
        "\n(A) From below\n(B) From the top.\nAnswer with the option's letter from the choices.",
    ],
)
def test_naturalbench_options_in_every_spelling(tmp_path, options):
    path = natural(tmp_path / "train.parquet", [(f"Where from?{options}", ("A", "(b)."))])
    first, second, *_ = read_data(path, "naturalbench")
    assert [one.rstrip(".") for one in first.candidates] == ["From below", "From the top"]
    assert first.answer == first.candidates[0] and second.answer == first.candidates[1]
    listed = "\n".join(f"{a}) {b}" for a, b in zip("AB", first.candidates, strict=True))
    assert first.question == f"Where from?\n{listed}"


def test_naturalbench_yes_and_no_without_the_instruction(tmp_path):
    asked = [("Is the dog asleep?Please answer Yes or No.", ("yes", "No."))]
    first, second, *_ = read_data(natural(tmp_path / "t.parquet", asked, "yes_no"), "naturalbench")
    assert first.question == "Is the dog asleep?" and (first.answer, second.answer) == ("Yes", "No")


@needs_real_data
def test_every_published_spelling_of_naturalbench_is_read(tmp_path):
    source = real_data() / "naturalbench" / "test_set_sample.json"
    held = json.loads(source.read_text())
    for _, image, _, _ in held:
        save(tmp_path / image)
    found = list(read_data(source, "naturalbench", images=tmp_path))
    assert len(found) == len(held) == 200
    assert not any("Please" in one.question or ";" in one.question for one in found)
    for problem, (question, _, answer, kind) in zip(found, held, strict=True):
        listed = {chr(65 + at): one for at, one in enumerate(problem.candidates)}
        expected = answer if kind == "yes_no" else listed[answer[0]]
        assert problem.answer == expected and problem.twin.answer != expected
        assert question.startswith(problem.question.split("\n")[0])


def test_naturalbench_texts_that_are_no_fours_are_refused(tmp_path):
    save(tmp_path / "a.png")
    held = [["Is it?", image, "Yes", "yes_no"] for image in ("a.png", "b.png", "c.png", "d.png")]
    path = tmp_path / "texts.json"
    path.write_text(json.dumps([*held, held[0]]))
    faults = check_data(path, "naturalbench").faults
    assert ["no two questions on two pictures" in one for one in faults] == [True, True]


def test_answers_of_vilp_that_differ_in_case_alone_are_one(tmp_path):
    row = {f"image{n}": stored(n) for n in (1, 2, 3)}
    row |= {"question": "Which tool?", "answer1": "Hammer", "answer2": "hammer", "answer3": "pen"}
    problems = list(read_data(table(tmp_path / "train.parquet", [row]), "vilp"))
    assert [p.answer for p in problems] == ["Hammer", "Hammer", "pen"]
    assert problems[0].candidates == ("Hammer", "pen") and problems[0].twin.answer == "pen"
    assert [p.metadata["agrees_with_prior"] for p in problems] == [True, True, False]


def test_small_letters_name_options_too(tmp_path):
    path = vstar(tmp_path) / "test_questions.jsonl"
    text = path.read_text()
    for letter in "ABCD":
        text = text.replace(f"({letter})", f"({letter.lower()})")
    path.write_text(text.replace('"label": "B"', '"label": "(b)"'))
    first, _ = read_data(tmp_path, "vstar")
    assert first.answer == "cotton" and "B) cotton" in first.question


def test_more_options_than_letters_are_refused(tmp_path):
    with pytest.raises(ProblemError, match="27 options"):
        with_options("Which?", [str(n) for n in range(27)])
    path = a_okvqa(tmp_path)
    held = json.loads(path.read_text())
    path.write_text(json.dumps([one | {"choices": [f"x{n}" for n in range(27)]} for one in held]))
    assert "27 options" in check_data(path, "a-okvqa").faults[0]


# --- pictures -----------------------------------------------------------------------------------


def forms(folder):
    """The same picture as tables hold it: bytes, a mapping, a name beside the table."""
    save(folder / "images" / "1.png", 1)
    held = stored(1)
    return {
        "bytes": held["bytes"],
        "mapping": held,
        "mapping without a path": {"bytes": held["bytes"], "path": None},
        "name": "images/1.png",
        "name in a mapping": {"bytes": None, "path": "images/1.png"},
        "full name": str(folder / "images" / "1.png"),
        "name with backslashes": "images\\1.png",
        "base64": base64.b64encode(held["bytes"]).decode(),
        "data address": "data:image/png;base64," + base64.b64encode(held["bytes"]).decode(),
    }


@pytest.mark.parametrize("form", ["bytes", "mapping", "mapping without a path", "name",
                                  "name in a mapping", "full name", "name with backslashes",
                                  "base64", "data address"])  # fmt: skip
def test_tables_hold_pictures_in_many_forms(tmp_path, form):
    image = forms(tmp_path)[form]
    vilp = {"question": "Which?", **{f"image{n}": image for n in (1, 2, 3)}}
    vilp |= {f"answer{n}": "abc"[n - 1] for n in (1, 2, 3)}
    natural_row = {
        "Index": 1,
        "Image_0": image,
        "Image_1": image,
        **{f"Question_{n}": "Is it?" for n in (0, 1)},
        **{f"Image_{n}_Question_{m}": ("Yes", "No")[n] for n in (0, 1) for m in (0, 1)},
        "Question_Type": "yes_no",
    }
    m3cot = {"id": "p-1", "question": "Which?", "choices": ["a", "b"], "answer": "b",
             "image": image, "context": "", "rationale": ""}  # fmt: skip
    aokvqa = {"question_id": "q", "question": "Which?", "choices": ["a", "b"],
              "correct_choice_idx": 1, "image": image, "rationales": []}  # fmt: skip
    chartqa = {"imgname": "1.png", "query": "How many?", "label": "12", "type": "augmented",
               "image": image}  # fmt: skip
    for format, row in (
        ("vilp", vilp),
        ("naturalbench", natural_row),
        ("m3cot", m3cot),
        ("a-okvqa", aokvqa),
        ("chartqa", chartqa),
    ):
        path = table(tmp_path / f"{format}.parquet", [row])
        first = next(iter(read_data(path, format)))
        assert first.image.tobytes() == picture(1).tobytes(), format
    assert first.metadata["source"] == "augmented" and first.tolerance == 0.05


def test_both_spellings_of_chartqa_s_columns(tmp_path):
    row = {"type": "human_test", "question": "How many?", "answer": "12", "image": stored(1)}
    (found,) = read_data(table(tmp_path / "test.parquet", [row]), "chartqa")
    assert (found.question, found.answer) == ("How many?", "12")
    assert found.metadata["source"] == "human"


def test_a_row_without_a_picture_says_so(tmp_path):
    path = naturalbench(tmp_path)
    rows = [{"Index": 0, "Image_0": None, "Image_1": {"bytes": None, "path": "gone.png"},
             "Question_Type": "yes_no"}]  # fmt: skip
    assert "has no picture" in check_data(table(path / "b.parquet", rows), "naturalbench").faults[0]
    rows[0]["Image_0"] = {"bytes": None, "path": "gone.png"}
    found = check_data(table(path / "b.parquet", rows), "naturalbench")
    assert "picture gone.png does not exist in" in found.faults[0]


def test_the_mirror_of_vstar_has_the_questions_without_boxes(tmp_path):
    row = {"image": stored(1), "label": "B", "category": "direct_attributes", "question_id": "3",
           "text": "Which?\n(A) rubber\n(B) cotton\nAnswer with the option's letter."}  # fmt: skip
    (found,) = read_data(table(tmp_path / "test.parquet", [row]), "vstar")
    assert (found.question, found.answer) == ("Which?\nA) rubber\nB) cotton", "cotton")
    assert not found.evidence


@needs_real_data
def test_boxes_of_visual_cot_without_answers_are_refused_in_a_sentence():
    path = real_data() / "visual-cot" / "benchmark_det" / "gqa.jsonl"
    assert (
        "benchmark_det, which has boxes and no answers" in check_data(path, "visual-cot").faults[0]
    )
