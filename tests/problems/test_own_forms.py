"""Your own data in the forms in which people have it comes out as the same problems."""

import base64
import csv
import gzip
import json
import os
import zipfile

import dataset_files
import numpy as np
import pyarrow as pa
import pytest
from dataset_files import lines, made, picture, save, stored, table
from PIL import Image
from real import needs_real_data, real_data

from attcot_analysis.cli import main
from attcot_analysis.errors import ProblemError
from attcot_analysis.problems import load_problems, save_problems
from attcot_analysis.problems.data import check_data, convert_data, read_data
from attcot_analysis.problems.folder import problem_record

ROWS = [
    {"id": "a", "image": "photos/1.png", "question": "What?", "answer": "red",
     "candidates": ["red", "blue"], "boxes": [[4, 4, 20, 20]]},
    {"id": "b", "image": "photos/2.png", "question": "Höw many?", "answer": "3",
     "references": ["three"]},
]  # fmt: skip


def cells(path, rows, delimiter=",", encoding="utf-8"):
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, names, delimiter=delimiter)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()})
    return path


def arrow(path, rows):
    path.parent.mkdir(parents=True)
    held = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, held.schema) as out:
        out.write_table(held)
    (path.parent / "dataset_info.json").write_text("{}")
    (path.parent / "state.json").write_text('{"_data_files": [{"filename": "x"}]}')
    return path.parent


def text(path, content, encoding="utf-8"):
    path.write_bytes(content.encode(encoding))
    return path


def as_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


FULL = [dict.fromkeys((*ROWS[0], *ROWS[1])) | row for row in ROWS]
NAMES = {"image": "file_name"}

FORMS = {
    "JSON lines": lambda f: text(f / "x.jsonl", as_lines(ROWS)),
    "other name": lambda f: text(f / "x.txt", as_lines(ROWS)),
    "UTF-16 lines": lambda f: text(f / "x.jsonl", as_lines(ROWS), "utf-16"),
    "compressed": lambda f: f / "x.jsonl.gz",
    "JSON list": lambda f: text(f / "x.json", json.dumps(ROWS)),
    "JSON object": lambda f: text(f / "x.json", json.dumps({"info": 1, "data": ROWS}), "utf-16"),
    "CSV": lambda f: cells(f / "x.csv", ROWS),
    "CSV of Excel": lambda f: cells(f / "x.csv", ROWS, ";", "utf-8-sig"),
    "TSV": lambda f: cells(f / "x.tsv", ROWS, "\t", "utf-16"),
    "parquet": lambda f: table(f / "x.parquet", FULL),
    "save_to_disk": lambda f: arrow(f / "saved" / "data-00000-of-00001.arrow", FULL),
    "imagefolder": lambda f: cells(
        f / "metadata.csv", [{NAMES.get(k, k): v for k, v in row.items()} for row in ROWS]
    ).parent,
    "Windows paths": lambda f: text(f / "x.jsonl", as_lines(ROWS).replace("photos/", "photos\\\\")),
    "other names": lambda f: text(
        f / "x.jsonl",
        as_lines(ROWS).replace('"image"', '"Image_Path"').replace('"candidates"', '"options"')
        .replace('"question"', '"query"').replace('"boxes": [[', '"bbox": [').replace("]]", "]"),
    ),
    "answers": lambda f: text(
        f / "x.jsonl",
        as_lines([ROWS[0] | {"answer": "A"}, ROWS[1] | {"answer": None, "references": None,
                                                        "answers": [3, "three", "3"]}]),
    ),
}  # fmt: skip


def folder(tmp_path):
    for at in (1, 2):
        save(tmp_path / "photos" / f"{at}.png", at)
    with gzip.open(tmp_path / "x.jsonl.gz", "wb") as file:
        file.write(as_lines(ROWS).encode())
    return tmp_path


@pytest.mark.parametrize("form", FORMS)
def test_the_same_records_in_every_form_are_the_same_problems(tmp_path, form):
    path = FORMS[form](folder(tmp_path))
    if form != "compressed":
        (tmp_path / "x.jsonl.gz").unlink()
    images = tmp_path if form == "save_to_disk" else None
    first, second = read_data(path, images=images)
    listed = "\nA) red\nB) blue" if form == "answers" else ""
    assert (first.id, first.question, first.answer) == ("a", f"What?{listed}", "red")
    assert first.candidates == ("red", "blue") and first.evidence == ((4, 4, 20, 20),)
    assert (second.question, second.answer, second.references) == ("Höw many?", "3", ("three",))
    assert first.image.tobytes() == picture(1).tobytes()
    assert second.image.tobytes() == picture(2).tobytes()


def test_vlmevalkit_s_table(tmp_path):
    shown = [base64.b64encode(stored(at)["bytes"]).decode() for at in (1, 2)]
    row = {"index": "0", "image": shown[0], "question": "Which?", "hint": "Look up.", "A": "a cat",
           "B": "a dog", "answer": "B", "category": "animals"}  # fmt: skip
    rows = [row, row | {"index": "1", "image": "0", "answer": "A", "hint": ""}]
    rows += [row | {"index": "2", "image": shown[1], "A": "", "B": "", "answer": "a hen"}]
    first, second, third = read_data(cells(tmp_path / "MMBench_DEV.tsv", rows, "\t"))
    assert first.question == "Look up.\nWhich?\nA) a cat\nB) a dog" and first.answer == "a dog"
    assert second.answer == "a cat" and second.question.startswith("Which?")
    assert first.image.tobytes() == second.image.tobytes() == picture(1).tobytes()
    assert third.candidates == () and third.image.tobytes() == picture(2).tobytes()
    assert first.id == "0" and first.metadata["category"] == "animals"


def asked(question, answer):
    return [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]


def test_conversations_and_messages(tmp_path):
    llava = {"id": "x", "image": "photos/1.png", "conversations": asked("What?", "red")}
    (found,) = read_data(text(folder(tmp_path) / "l.json", json.dumps([llava])))
    assert (found.question, found.answer) == ("What?", "red")
    said = "<think>It glows. So it is hot.</think>\n<answer>red</answer>"
    parts = [{"type": "image_url", "image_url": {"url": "photos/1.png"}},
             {"type": "text", "text": "What?"}]  # fmt: skip
    chat = {"messages": [{"role": "system", "content": "Be kind."},
                         {"role": "user", "content": parts},
                         {"role": "assistant", "content": said}]}  # fmt: skip
    checked = check_data(lines(tmp_path / "m.jsonl", [chat]))
    assert any("what system says in messages" in one for one in checked.coverage.warnings)
    (found,) = read_data(tmp_path / "m.jsonl")
    assert found.answer == "red" and [one.text for one in found.steps] == [
        "It glows.",
        "So it is hot.",
    ]
    chat["messages"][1]["content"] = "<image>What?"
    (found,) = read_data(lines(tmp_path / "m.jsonl", [chat | {"images": ["photos/2.png"]}]))
    assert found.question == "What?" and found.image.tobytes() == picture(2).tobytes()
    llava["conversations"] += asked("Where?", "left")
    (fault,) = check_data(text(tmp_path / "l.json", json.dumps([llava]))).faults
    assert "conversations holds 2 questions and 2 answers" in fault


def test_numbers_and_truth_values_are_answers(tmp_path):
    row = {"image": "photos/1.png", "question": "How many?"}
    rows = [row | {"answer": one} for one in (3, 3.0, 2.5, True)]
    path = lines(folder(tmp_path) / "n.jsonl", [*rows, row | {"answer": 4, "options": [3, 4]}])
    found = list(read_data(path))
    assert [one.answer for one in found] == ["3", "3", "2.5", "Yes", "4"]
    assert found[3].candidates == ("Yes", "No") and found[4].candidates == ("3", "4")


def test_pictures_in_a_zip_file(tmp_path):
    path = text(folder(tmp_path) / "x.jsonl", as_lines(ROWS))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as out:
        for at in (1, 2):
            out.write(tmp_path / "photos" / f"{at}.png", f"photos/{at}.png")
            (tmp_path / "photos" / f"{at}.png").unlink()
    assert main(["data", "check", str(path), "--images", str(tmp_path / "all.zip")]) == 0
    assert "photos/1.png does not exist in" in check_data(path).faults[0]
    (tmp_path / "no.zip").write_bytes(b"PK")
    with pytest.raises(ProblemError, match=r"no.zip is no folder, nor a ZIP file"):
        check_data(path, images=tmp_path / "no.zip")


def test_fields_of_any_name(tmp_path, capsys):
    row = {"pic": "photos/1.png", "ask": "What?", "gold": "red", "level": 3, "tags": ["a"]}
    path = lines(folder(tmp_path) / "y.jsonl", [row])
    command = ["data", "check", str(path), "--map", "image=pic", "--map", "question=ask"]
    assert main(command) == 3
    assert (
        "lacks answer; it has pic, ask, gold, level, tags: if it is called"
        in capsys.readouterr().out
    )
    assert main([*command, "--map", "answer=gold"]) == 0
    said = capsys.readouterr().out
    assert "Kept as metadata: level." in said and "Not read: tags." in said
    names = {"image": "pic", "question": "ask", "answer": "gold"}
    (found,) = read_data(path, names=names)
    assert found.metadata == {"level": 3}
    assert main([*command, "--map", "answer=glod"]) == 3
    assert "is it gold?" in capsys.readouterr().out
    assert main([*command, "--map", "answer"]) == 1
    with pytest.raises(ProblemError, match="no field 'reply' here"):
        check_data(path, names={"reply": "gold"})
    with pytest.raises(ProblemError, match="leave --map out"):
        check_data(path, "vilp", names={"answer": "gold"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidate": ["x"]}, "unknown field 'candidate'; is it candidates?"),
        ({"answer": "rde", "candidates": ["red", "blue"]}, "nor a letter of one; is it 'red'?"),
        ({"answer": "C", "candidates": ["red", "blue"]}, "'C' is not one of the candidates"),
        ({"image": ["photos/1.png", 2]}, "image is 2; it must be a string"),
        ({"answer": ["a", {"b": 1}]}, "reference is {'b': 1}; it must be a string"),
        ({"image": "C:\\data\\1.png"}, "say where pictures lie with --images"),
        ({"boxes": "here"}, "line 1"),
    ],
)
def test_what_is_wrong_names_its_field_and_the_nearest(tmp_path, change, message):
    row = {"image": "photos/1.png", "question": "What?", "answer": "red"}
    (fault,) = check_data(lines(folder(tmp_path) / "y.jsonl", [row | change])).faults
    assert message in fault and "line 1" in fault and "\n" not in fault


def test_two_fields_that_may_be_the_question_are_asked_about(tmp_path):
    row = {"image": "photos/1.png", "query": "What?", "text": "Where?", "answer": "red"}
    path = lines(folder(tmp_path) / "y.jsonl", [row])
    assert "has no question but query and text; say" in check_data(path).faults[0]
    (found,) = read_data(path, names={"question": "text"})
    assert found.question == "Where?"


def test_files_that_cannot_be_read_are_a_sentence(tmp_path):
    folder(tmp_path)
    for name, content, message in [
        ("a.csv", "image,question\nÄ,b\n".encode("latin-1"), "neither UTF-8 nor UTF-16"),
        ("b.csv", b"image,question\na,b,c\n", "line 2 has more cells"),
        ("c.jsonl.gz", b"no gzip", "cannot be read"),
        ("d.json", b'{"a": [1]}', "holds no list"),
        ("e.arrow", b"no arrow", "not written by save_to_disk"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ProblemError, match=message):
            list(read_data(tmp_path / name))


# --- a check says what a conversion does --------------------------------------------------------


def test_a_check_refuses_what_a_conversion_would(tmp_path):
    row = {"image": "photos/1.png", "question": "What?", "answer": "red"}
    names = ["a/b", "a.twin", "x", "X", "_ä b", "z" * 220, "../../x"]
    rows = [row | {"id": one} for one in (*names, "x", " ", "\ud800")]
    path = lines(folder(tmp_path) / "y.jsonl", rows)
    faults = check_data(path).faults
    for fault, said in zip(faults, ("twice", "id is ' '", "surrogate"), strict=True):
        assert said in fault
    done = convert_data(path, tmp_path / "out", skip_faulty=True)
    assert done.faults == faults and [one.id for one in load_problems(tmp_path / "out")] == names


def test_problem_folders_are_checked_and_converted_like_all(tmp_path):
    problems = list(read_data(made(tmp_path, "jsonl")))
    out = save_problems(problems, tmp_path / "set")
    (out / "images" / "item-2.png").write_bytes(b"no picture")
    found = check_data(out)
    assert found.coverage.n == 1 and len(found.faults) == 1 and "damaged" in found.faults[0]
    assert check_data(out / "problems.jsonl").faults == found.faults
    convert_data(out, tmp_path / "again", skip_faulty=True)
    (back,) = load_problems(tmp_path / "again")
    assert problem_record(back) == problem_record(problems[0])


def test_a_picture_of_several_items_lies_on_the_disk_once(tmp_path):
    path = made(tmp_path, "naturalbench")
    convert_data(path, tmp_path / "out", "naturalbench")
    files = list((tmp_path / "out" / "images").iterdir())
    assert len(files) == 16 and len({os.stat(file).st_ino for file in files}) == 2
    direct = list(read_data(path, "naturalbench"))
    for one, back in zip(direct, load_problems(tmp_path / "out"), strict=True):
        assert one.image.tobytes() == back.image.tobytes()
        assert one.twin.image.tobytes() == back.twin.image.tobytes()


# --- a sample -----------------------------------------------------------------------------------


def typed(tmp_path, kinds):
    rows = [
        {"id": f"{kind}-{at}", "image": "photos/1.png", "question": f"{at}?", "answer": "red",
         "type": kind}
        for kind, n in kinds.items() for at in range(n)
    ]  # fmt: skip
    return lines(folder(tmp_path) / "t.jsonl", rows)


def test_a_sample_holds_every_type_in_proportion(tmp_path):
    path = typed(tmp_path, {"a": 40, "b": 20, "c": 4})
    convert_data(path, tmp_path / "out", limit=16, seed=3)
    ids = [one.id for one in load_problems(tmp_path / "out")]
    counts = [sum(one.startswith(kind) for one in ids) for kind in "abc"]
    assert len(set(ids)) == 16 and counts == [10, 5, 1]

    def drawn(seed):
        convert_data(path, tmp_path / "out", limit=16, seed=seed, overwrite=True)
        return [one.id for one in load_problems(tmp_path / "out")]

    assert drawn(3) == ids and drawn(4) != ids
    assert check_data(path, limit=16, seed=3).coverage.n == 16
    convert_data(path, tmp_path / "all", limit=100)
    every = [one.id for one in load_problems(tmp_path / "all")]
    assert every == [one.id for one in read_data(path)]


def test_records_of_several_problems_are_sampled_too(tmp_path):
    path = dataset_files.naturalbench(tmp_path / "set")
    assert check_data(path, "naturalbench", limit=6).coverage.n == 6


def test_shards_of_one_table_keep_their_ids_apart(tmp_path):
    folder(tmp_path)
    (tmp_path / "x.jsonl.gz").unlink()
    rows = [{"image": stored(1), "question": "What?", "answer": "red"}] * 2
    for at in range(2):
        table(tmp_path / f"train-0000{at}-of-00002.parquet", rows)
    assert [one.id for one in read_data(tmp_path)] == ["item-1", "item-2", "item-3", "item-4"]


def test_what_is_not_read_is_said_at_once(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(ProblemError, match=r"a.xlsx is not read; save it as JSON lines"):
        check_data(tmp_path / "a.xlsx")


@needs_real_data
def test_a_model_s_published_rationales_are_own_data(tmp_path):
    root = real_data()
    source = root / "chartqa-think" / "sample.json"
    found = check_data(source, images=root / "chartqa" / "test" / "png")
    rows = json.loads(source.read_text())
    known = {file.name for file in (root / "chartqa" / "test" / "png").iterdir()}
    there = [row for row in rows if row["image"] in known]
    assert found.coverage.n == len(there)
    assert all("does not exist" in one for one in found.faults)
    for row in rows:
        dataset_files.save(tmp_path / row["image"])
    for problem, row in zip(read_data(source, images=tmp_path), rows, strict=True):
        assert problem.metadata["label"] == row["label"]
        assert (
            problem.answer == row["answer"].split("<answer>")[1].removesuffix("</answer>").strip()
        )
        assert problem.steps and "<" not in problem.steps[0].text


# --- options, answers and boxes as they are often written -----------------------------------------

ASKED = {"image": "photos/1.png", "question": "Which?", "answer": "B"}
LISTED = "Which?\nA) red\nB) blue"


@pytest.mark.parametrize(
    "change",
    [
        {"choices": {"text": ["red", "blue"], "label": ["A", "B"]}},
        {"choices": [{"label": "A", "text": "red"}, {"label": "B", "text": "blue"}]},
        {"options": ["A) red", "B) blue"]},
        {"options": "A. red\nB. blue"},
        {"options": "red; blue"},
        {"options": "red, blue", "answer": "B. blue"},
        {"question": "Which?\nA. red\nB. blue"},
        {"options": ["red", "blue"], "answer": "<answer>B</answer>"},
        {"options": ["red", "blue"], "answer": "\\boxed{B}"},
        {"options": ["red", "blue"], "answer": "$\\boxed{B}$"},
        {"choices": {"text": ["blue", "red"], "label": ["B", "A"]}},
        {"choices": [{"label": "B", "text": "blue"}, {"label": "A", "text": "red"}]},
        {"options": {"B": "blue", "A": "red"}},
        {"B": "blue", "A": "red"},
        {"choice_a": "red", "choice_b": "blue"},
        {"option B": "blue", "option A": "red"},
        {"question": "<image 1> Which?", "options": ["red", "blue"]},
    ],
)
def test_options_and_letters_in_many_spellings(tmp_path, change):
    (found,) = read_data(lines(folder(tmp_path) / "o.jsonl", [ASKED | change]))
    assert (found.question, found.candidates, found.answer) == (LISTED, ("red", "blue"), "blue")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": ["red", "blue"], "answer": ["A", "B"]}, "has several right candidates"),
        ({"options": ["red", "blue"], "answer": ["red", "blue"]}, "has several right candidates"),
        ({"options": "1,200, 2,300", "answer": "A"}, "candidates is '1,200, 2,300'"),
        ({"options": ["red", "blue"], "answer": 1}, "'1' is not one of the candidates"),
        ({"options": {"B": "red", "C": "blue"}}, "options have the letters B, C; expected A, B"),
        ({"A": "red", "B": "blue", "D": "green"}, "options have the letters A, B, D; expected"),
        ({"choice_b": "red", "choice_c": "blue"}, "options have the letters B, C; expected"),
        ({"answer": "<REASONING> a </REASONING> <CONCLUSION> B </CONCLUSION>"}, "holds <CONCL"),
        ({"question": "Which? <image 2>"}, "holds <image 2> and it has 1 pictures"),
        ({"boxes": {"x": 1, "y": 2, "w": 3, "h": 4}}, "is {'x': 1, 'y': 2, 'w': 3, 'h': 4}"),
        ({"boxes": "<box>(1,2),(3,4)</box>"}, "<box>(1,2),(3,4)</box>"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(tmp_path, change, message):
    (fault,) = check_data(lines(folder(tmp_path) / "o.jsonl", [ASKED | change])).faults
    assert message in fault and "line 1" in fault


def test_numbered_places_of_pictures_and_boxes_with_braces(tmp_path):
    asked = "<image 1>\n<image 2> Which?"
    answer = "<think>1. a\n2. b</think> So $$\\boxed{\\frac{1}{2}}$$."
    row = {"image": ["photos/1.png", "photos/2.png"], "question": asked, "answer": answer}
    (found,) = read_data(lines(folder(tmp_path) / "o.jsonl", [row]))
    assert (found.question, found.n_images) == ("Which?", 2)
    assert found.answer == "\\frac{1}{2}" and [step.text for step in found.steps] == ["a", "b"]


def test_several_people_s_answers_are_scored_as_in_vqa(tmp_path):
    people = [{"answer": word, "answer_confidence": "yes"} for word in 3 * ["red"] + 2 * ["rose"]]
    row = {**ASKED, "answer": None, "answers": people, "boxes": ["4", "4", "20", "20.5"]}
    path = lines(folder(tmp_path) / "o.jsonl", [row])
    (found,) = read_data(path)
    assert (found.scoring, found.answer, len(found.references)) == ("vqa", "red", 5)
    assert found.evidence == ((4, 4, 20, 20.5),)
    assert "1 items are scored as in VQA" in str(check_data(path).coverage)


def test_records_by_id_and_nearly_black_pictures(tmp_path):
    Image.fromarray(np.full((48, 64), 900, dtype=np.uint16)).save(folder(tmp_path) / "dark.png")
    held = {"q1": {"image": "dark.png", "question": "What?", "answer": "fog"}}
    (tmp_path / "by_id.json").write_text(json.dumps(held | {"q2": held["q1"] | {"id": "own"}}))
    found = check_data(tmp_path / "by_id.json")
    assert [one.id for one in read_data(tmp_path / "by_id.json")] == ["q1", "own"]
    assert "2 pictures are nearly black" in str(found.coverage)
    lists = {"data": list(held.values()), "info": [1], "version": 2}
    (tmp_path / "data.json").write_text(json.dumps(lists))
    assert check_data(tmp_path / "data.json").coverage.n == 1


def test_a_json_list_may_be_called_jsonl(tmp_path):
    path = folder(tmp_path) / "list.jsonl"
    path.write_text(json.dumps([ASKED, ASKED], indent=1))
    assert check_data(path).coverage.n == 2
