"""Responses from elsewhere: read, checked, and forced on the model word for word."""

import json
from dataclasses import replace

import numpy as np
import pytest

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.commitment import commitment
from attcot_analysis.problems import render_response
from attcot_analysis.runs.generations import Generations, read_batch, read_generations
from attcot_analysis.runs.measure import Settings, Stages, measure, measure_run
from attcot_analysis.runs.values import DEFAULT, suite_values
from attcot_lab.testbed.arrows import generate_arrows

TEXT = "<think>\n1. Look at a1.\n2. Then at b1.\n</think>\n<answer>red</answer>"


def written(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def ids_of(mllm, text):
    return list(mllm.tokenizer(text, add_special_tokens=False)["input_ids"])


def test_text_and_ids_are_the_same_response(random_mllm, tmp_path):
    ids = [*ids_of(random_mllm, TEXT), random_mllm.stop_ids[0], 5, 6]
    file = written(
        tmp_path / "a.jsonl",
        {"id": "text", "text": TEXT},
        {"id": "ids", "ids": ids},
        {"id": "both", "ids": ids[:-3], "text": TEXT, "finish_reason": "length", "model": "x"},
        {"custom_id": "batch", "response": {"body": {"choices": [
            {"message": {"content": TEXT}, "finish_reason": "stop"}]}}, "error": None},
    )  # fmt: skip
    found = read_generations(file, random_mllm)
    assert set(found.of) == {"text", "ids", "both", "batch"}
    assert {one.text for one in found.of.values()} == {TEXT}
    assert {one.ids for one in found.of.values()} == {tuple(ids[:-3])}
    assert [name for name, one in found.of.items() if not one.finished] == ["both"]
    again = read_generations(file, random_mllm, foreign=True)
    assert again.record() == {"n": 4, "sha256": found.sha256, "foreign": True}


def test_other_tokens_for_the_same_text_are_kept(random_mllm, tmp_path):
    """Why ids are preferred: a model need not write the tokens that its tokenizer would."""
    spelt = [token for letter in TEXT for token in ids_of(random_mllm, letter)]
    assert spelt != ids_of(random_mllm, TEXT)
    file = written(tmp_path / "a.jsonl", {"id": "a", "ids": spelt, "text": TEXT})
    assert read_generations(file, random_mllm).of["a"].ids == tuple(spelt)


def test_fields_go_by_the_names_that_others_give_them(random_mllm, tmp_path):
    plain = written(tmp_path / "a.jsonl", {"id": "a", "text": TEXT})
    own = read_generations(plain, random_mllm).of
    for item, text in (("item", "prediction"), ("index", "response"), ("question_id", "output")):
        file = written(tmp_path / "b.jsonl", {item: "a", text: TEXT})
        assert read_generations(file, random_mllm).of == own


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not valid JSON"),
        ("[]", "line 2 holds no JSON object"),
        ({"id": "a"}, "line 2 has neither ids nor text"),
        ({"id": 3, "text": "x"}, "line 2: id is 3"),
        ({"id": "a", "tokens": []}, "unknown field 'tokens'"),
        ({"id": "a", "text": 3}, "text is 3"),
        ({"id": "a", "ids": "12"}, "ids is '12'"),
        ({"id": "a", "ids": [1, True]}, "expected a list of whole numbers"),
        ({"id": "a", "ids": [10**6]}, "token 1000000 is none of the"),
        ({"id": "a", "ids": [1, 2], "text": "other"}, "give the text alone"),
        ({"id": "first", "text": TEXT}, "item 'first' occurs twice"),
        ({"id": "a", "text": TEXT, "correct": "yes"}, "correct is 'yes'; expected true, false or"),
        ({"id": "a", "text": TEXT, "correct": 1.5}, "correct is 1.5"),
        ({"id": "a", "text": TEXT, "correct": True}, "1 of 2 responses .* no correct \\(first"),
        ({"custom_id": "a", "response": None, "error": "timeout"}, "holds no response .*timeout"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_used_is_named(random_mllm, tmp_path, line, message):
    file = written(tmp_path / "a.jsonl", {"id": "first", "text": TEXT})
    with file.open("a") as more:
        more.write(line if isinstance(line, str) else json.dumps(line))
    with pytest.raises(MeasureError, match=message):
        read_generations(file, random_mllm)


def test_image_tokens_and_text_that_does_not_come_back_are_refused(
    random_mllm, tmp_path, monkeypatch
):
    file = written(tmp_path / "a.jsonl", {"id": "a", "ids": [random_mllm.image_token_id]})
    with pytest.raises(MeasureError, match="stands for a picture"):
        read_generations(file, random_mllm)
    written(file, {"id": "a", "text": TEXT})
    true = type(random_mllm.tokenizer).decode
    monkeypatch.setattr(
        type(random_mllm.tokenizer),
        "decode",
        lambda self, *given, **options: true(self, *given, **options).replace("a1", "a 1"),
    )
    with pytest.raises(MeasureError, match=r"does not come back from tiny's tokens .*give token"):
        read_generations(file, random_mllm)


def inspect_log(*samples):
    """A log of Inspect, of version 2, as far as it matters."""
    return {"version": 2, "status": "success", "eval": {"task": "t"}, "samples": list(samples)}


def inspect_sample(content, item="p", epoch=1, **more):
    message = {"content": content, "source": "generate", "role": "assistant"}
    choice = {"message": message, "stop_reason": more.pop("stop_reason", "stop")}
    output = {"model": "vllm/some-model", "choices": [choice], "usage": {}}
    return {"id": item, "epoch": epoch, "input": "?", "target": "red", "output": output, **more}


def test_a_log_of_inspect_holds_a_response_per_sample_and_epoch(random_mllm, tmp_path):
    text = "<think>\n1. Look.\n</think>\n<answer>red</answer>"
    log = inspect_log(
        inspect_sample(text, 7, stop_reason="max_tokens", attachments={}),
        inspect_sample([{"type": "text", "text": text}], 7, 2),
    )
    file = tmp_path / "log.json"
    file.write_text(json.dumps(log, indent=2))
    found = read_generations(file, random_mllm)
    first, second = found.samples("7")
    assert list(first.ids) == list(second.ids) == ids_of(random_mllm, text)
    assert (first.finished, second.finished) == (False, True)
    thought = [{"type": "reasoning", "reasoning": "Hm."}, {"type": "text", "text": "red"}]
    failed = inspect_sample("", "q", error={"message": "broken"}) | {"output": {"choices": []}}
    for sample, message in ((inspect_sample(thought), "reasoning parser"), (failed, "broken")):
        file.write_text(json.dumps(inspect_log(sample), indent=2))
        with pytest.raises(MeasureError, match=rf"sample 1.*{message}"):
            read_generations(file, random_mllm)
    file.with_suffix(".eval").write_bytes(b"PK\x03\x04")
    with pytest.raises(MeasureError, match=r"inspect log dump log\.eval"):
        read_generations(file.with_suffix(".eval"), random_mllm)


def test_no_file_no_lines_no_response_for_an_item(random_mllm, tmp_path):
    with pytest.raises(MeasureError, match="cannot be read"):
        read_generations(tmp_path / "none.jsonl", random_mllm)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(MeasureError, match="holds no response"):
        read_generations(tmp_path / "empty.jsonl", random_mllm)
    with pytest.raises(MeasureError, match="2 of 2 items have no response"):
        Stages(random_mllm, generate_arrows(2), Settings(generations=Generations({}))).check()


def test_what_is_measured_is_what_was_written(random_mllm, tmp_path):
    problems = generate_arrows(2, seed=4)
    texts = [render_response(p.steps, p.candidates[at]) for at, p in enumerate(problems)]
    lines = [{"id": p.id, "text": t} for p, t in zip(problems, texts, strict=True)]
    file = written(tmp_path / "a.jsonl", *lines)
    options = {"layers": [0], "controls": ("rationale",), "max_new_tokens": 3}
    own, foreign = (
        measure(
            random_mllm,
            problems,
            generations=read_generations(file, random_mllm, foreign=other),
            edits=("blank",),
            **options,
        )
        for other in (False, True)
    )
    assert own["answers_cot"]["text"].tolist() == texts
    assert own["answers_cot"]["correct"].tolist() == [
        p.answer == p.candidates[at] for at, p in enumerate(problems)
    ]
    direct = commitment(random_mllm, problems, texts, controls=("rationale",)).table
    np.testing.assert_allclose(own["commitment"]["log_p"], direct["log_p"], atol=1e-5)
    assert set(own["dependence"]["rationale"]) == {"fixed", "regenerated"}
    assert set(foreign["dependence"]["rationale"]) == {"fixed"}


def test_scores_that_came_with_the_responses_are_taken(random_mllm, tmp_path):
    problems = generate_arrows(3, seed=0)
    right = render_response(problems[0].steps, problems[0].answer)
    file = written(
        tmp_path / "a.jsonl",
        {"id": problems[0].id, "text": right, "correct": False},
        {"id": problems[1].id, "text": "No idea.", "correct": True},
        {"id": problems[2].id, "text": right, "correct": 0.25},
    )
    scored = read_generations(file, random_mllm)
    assert scored.record()["scores"] == "given"
    run = measure_run(
        tmp_path / "run", random_mllm, problems, ("answers",), generations=scored, max_new_tokens=3
    )
    table = run.read_table("answers_cot")
    rows = table.set_index("item").loc[[problem.id for problem in problems]]
    assert rows["score"].tolist() == [0.0, 1.0, 0.25]
    assert rows["correct"].tolist() == [False, True, False]
    assert rows["flag"].tolist() == ["given"] * 3
    assert rows["answer"].isna().tolist() == [False, True, False]
    values = suite_values({"answers_cot": table}, problems, model="m", seed=0)
    values = values.pivot(index="item", columns="metric", values="value")
    assert values["accuracy_cot"].loc[rows.index].tolist() == [0.0, 1.0, 0.25]
    assert (values["scored_cot"] == 1).all() and values["unparsed_cot"].sum() == 1
    stale = read_generations(
        written(tmp_path / "b.jsonl", *({"id": p.id, "text": right} for p in problems)), random_mllm
    )
    assert "scores" not in stale.record()


def test_open_questions_are_answered_but_never_forced(random_mllm):
    closed, other = generate_arrows(2, seed=4)
    bare = {"candidates": (), "twin": None, "control": None, "habitual": None}
    asked = replace(other, answer="a Blue unicorn", **bare)
    texts = [render_response(p.steps, p.answer) for p in (closed, asked)]
    with pytest.raises(MeasureError, match="is an open question"):
        commitment(random_mllm, [asked], texts[1:])
    made = {p.id: t for p, t in zip((closed, asked), texts, strict=True)}
    tables = measure(
        random_mllm,
        [closed, asked],
        (*DEFAULT, "causal", "lens", "divergence"),
        generations=_generations(random_mllm, made),
        layers=[0],
        controls=("rationale", "other_item"),
        edits=("twin", "blank"),
        max_new_tokens=3,
    )
    assert tables["answers_cot"]["correct"].tolist() == [True, True]
    for name in ("commitment", "causal", "lens"):
        assert set(tables[name]["item"]) == {closed.id}
    for name in ("access", "divergence"):
        assert set(tables[name]["item"]) == {closed.id, asked.id}
    edits = tables["dependence"].set_index("item")
    assert set(edits.loc[[asked.id], "rationale"]) == {"regenerated"}
    assert edits.loc[[asked.id], "delta_log_p"].isna().all()
    assert edits.loc[[closed.id], "delta_log_p"].notna().any()


def test_a_response_that_states_no_answer_leaves_the_other_measurements_be(random_mllm):
    whole, cut = generate_arrows(2, seed=4)
    text = render_response(cut.steps, cut.answer)
    written_texts = {
        whole.id: render_response(whole.steps, whole.answer),
        cut.id: text[: text.index("<answer>")],
    }
    tables = measure(
        random_mllm,
        [whole, cut],
        ("answers", "access", "answer_access"),
        generations=_generations(random_mllm, written_texts),
        layers=[0],
        max_new_tokens=3,
    )
    assert set(tables["access"]["item"]) == {whole.id, cut.id}
    assert set(tables["answer_access"]["item"]) == {whole.id}


def _generations(mllm, texts):
    from attcot_analysis.models import Generation

    return Generations(
        {item: Generation(tuple(ids_of(mllm, text)), text, True) for item, text in texts.items()}
    )


def test_several_responses_to_an_item_are_told_apart_by_sample(random_mllm, tmp_path):
    def choice(text, index):
        return {"index": index, "message": {"content": text}, "finish_reason": "stop"}

    file = written(
        tmp_path / "a.jsonl",
        {"id": "a", "text": "second", "sample": 1},
        {"id": "a", "text": "first", "sample": 0},
        {
            "custom_id": "b",
            "response": {"body": {"choices": [choice("2nd", 1), choice("1st", 0)]}},
        },
    )
    found = read_generations(file, random_mllm)
    assert [one.text for one in found.samples("a")] == ["first", "second"]
    assert [one.text for one in found.samples("b")] == ["1st", "2nd"]
    assert found.of["a"].text == "first" and found.n_samples == 2
    assert [(line["id"], line["sample"]) for line in read_batch(file).lines] == [
        ("a", 1),
        ("a", 0),
        ("b", 1),
        ("b", 0),
    ]


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({}, "item 'a' occurs twice; keep one response each, or tell several apart"),
        ({"sample": 0}, "item 'a' occurs twice"),
        ({"sample": "1"}, "sample is '1'; expected a number from 0"),
        ({"sample": -1}, "sample is -1; expected"),
    ],
)
def test_samples_that_are_not_told_apart_are_refused(random_mllm, tmp_path, sample, message):
    file = written(
        tmp_path / "a.jsonl", {"id": "a", "text": "x"}, {"id": "a", "text": "y"} | sample
    )
    with pytest.raises(MeasureError, match=message):
        read_generations(file, random_mllm)
    assert message in read_batch(file).faults[0]


def test_items_with_fewer_samples_than_the_others_are_named(random_mllm):
    first, second = generate_arrows(2, seed=4)
    of = _generations(random_mllm, {first.id: TEXT, second.id: TEXT}).of
    given = Generations(of, more={first.id: (of[first.id],)})
    with pytest.raises(
        MeasureError, match=f"1 of 2 items have fewer than 2.*{second.id}.*samples=1"
    ):
        Stages(random_mllm, [first, second], Settings(generations=given)).check()
    Stages(random_mllm, [first, second], Settings(generations=given, samples=1)).check()
