"""Requests for a batch runner and what it answers: there and back without a token lost."""

import base64
import io
import json
from dataclasses import replace
from urllib.parse import unquote, urlparse

import pytest
from PIL import Image

from attcot_analysis.cli import main
from attcot_analysis.errors import MeasureError
from attcot_analysis.models import encode_problem, generate
from attcot_analysis.models.inputs import encode_prompt
from attcot_analysis.problems.folder import save_problems
from attcot_analysis.runs.generations import (
    read_batch,
    read_generations,
    write_generations,
    write_requests,
)
from attcot_lab.testbed.arrows import generate_arrows

TEXT = "<think>\n1. Look at a1.\n</think>\n<answer>red</answer>"


@pytest.fixture(scope="module")
def problems():
    first, *others = generate_arrows(3, seed=4)
    return [replace(first, more_images=(others[0].image,)), *others]


@pytest.fixture(scope="module")
def folder(problems, tmp_path_factory):
    return save_problems(problems, tmp_path_factory.mktemp("problems") / "arrows")


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def opened(url):
    """A picture as a server gets it."""
    if url.startswith("data:image/png;base64,"):
        return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    return Image.open(unquote(urlparse(url).path))


def asked(mllm, line):
    """The prompt that a server makes of a request."""
    messages, pictures = line["body"]["messages"], []
    for message in messages:
        for part in message["content"]:
            if part["type"] == "image_url":
                pictures.append(opened(part.pop("image_url")["url"]).convert("RGB"))
                part["type"] = "image"
    prompt = mllm.processor.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    return encode_prompt(mllm, prompt, pictures)


def answered(item, *, text=TEXT, reason="stop", **choice):
    """A line of the output of vllm run-batch."""
    message = {"role": "assistant", "content": text, "refusal": None, **choice.pop("message", {})}
    choices = [{"index": 0, "message": message, "finish_reason": reason, **choice}]
    body = {"id": "chatcmpl-1", "model": "tiny", "choices": choices, "usage": {}}
    response = {"status_code": 200, "request_id": "r", "body": body}
    return {"id": "vllm-1", "custom_id": item, "response": response, "error": None}


def written(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def ids_of(mllm, text=TEXT):
    return list(mllm.tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("linked", [False, True])
def test_there_and_back(random_mllm, problems, folder, tmp_path, linked):
    requests = write_requests(
        tmp_path / "requests.jsonl",
        problems,
        model="tiny",
        max_new_tokens=6,
        folder=folder if linked else None,
    )
    found = lines(requests)
    assert [one["custom_id"] for one in found] == [one.id for one in problems]
    assert {(one["method"], one["url"]) for one in found} == {("POST", "/v1/chat/completions")}
    prompts = [asked(random_mllm, one) for one in found]
    for problem, prompt in zip(problems, prompts, strict=True):
        own = encode_problem(random_mllm, problem)
        assert prompt.input_ids.tolist() == own.input_ids.tolist()
        assert all((prompt.vision[key] == own.vision[key]).all() for key in own.vision)
    own = generate(random_mllm, prompts, max_new_tokens=found[0]["body"]["max_tokens"])
    output = written(
        tmp_path / "output.jsonl",
        *(
            answered(
                problem.id,
                text=one.text,
                reason="stop" if one.finished else "length",
                # A server counts the end token among the response's.
                token_ids=[*one.ids, *([random_mllm.stop_ids[0]] if one.finished else [])],
            )
            for problem, one in zip(problems, own, strict=True)
        ),
    )
    batch = read_batch(output, [problem.id for problem in problems])
    assert not batch.faults and not batch.missing
    made = write_generations(tmp_path / "responses.jsonl", batch)
    for file in (output, made):
        back = read_generations(file, random_mllm).of
        assert [back[problem.id] for problem in problems] == own


def test_a_request_switches_off_what_the_checkpoint_would_add(problems, tmp_path):
    path = write_requests(
        tmp_path / "a.jsonl", problems, model="m", temperature=0.5, seed=3, text_only=True
    )
    body = lines(path)[0]["body"]
    assert (body["model"], body["temperature"], body["seed"]) == ("m", 0.5, 3)
    assert (body["top_p"], body["top_k"], body["repetition_penalty"]) == (1.0, 0, 1.0)
    assert body["return_token_ids"] is True and body["skip_special_tokens"] is False
    assert [part["type"] for part in body["messages"][0]["content"]] == ["text"]


def test_a_linked_picture_that_is_not_plain_is_held_instead(problems, tmp_path):
    folder = save_problems(problems, tmp_path / "arrows")
    file = folder / "images" / f"{problems[0].id}.png"
    problems[0].image.convert("RGBA").save(file)
    exif = Image.Exif()
    exif[0x0112] = 3
    problems[1].image.save(folder / "images" / f"{problems[1].id}.png", exif=exif)
    path = write_requests(tmp_path / "a.jsonl", problems, model="m", folder=folder)
    parts = [one["body"]["messages"][0]["content"][0]["image_url"]["url"] for one in lines(path)]
    assert [url.partition(":")[0] for url in parts] == ["data", "data", "file"]


def test_tokens_are_found_wherever_a_server_puts_them(random_mllm, tmp_path):
    spelt = [token for letter in TEXT for token in ids_of(random_mllm, letter)]
    assert spelt != ids_of(random_mllm)
    named = {"content": [{"token": f"token_id:{one}", "logprob": -1.0} for one in spelt]}
    words = {"content": [{"token": letter, "logprob": -1.0} for letter in TEXT]}
    apart = {"reasoning": "1. Look at a1."}
    file = written(
        tmp_path / "a.jsonl",
        answered("ids", token_ids=spelt),
        answered("named", logprobs=named),
        answered("text", logprobs=words),
        answered("thought", text="red", token_ids=spelt, message=apart),
        answered("plain", text=TEXT + "<|im_end|>", token_ids=spelt),
    )
    found = read_generations(file, random_mllm).of
    assert {one.text for one in found.values()} == {TEXT}
    plain = {item for item, one in found.items() if list(one.ids) != spelt}
    assert plain == {"text"} and list(found["text"].ids) == ids_of(random_mllm)


def test_text_may_lack_special_tokens_and_the_rest_of_a_letter(random_mllm, tmp_path):
    start = random_mllm.tokenizer.convert_tokens_to_ids("<|vision_start|>")
    half = ids_of(random_mllm, "é")[:1]
    file = written(
        tmp_path / "a.jsonl", answered("a", token_ids=[start, *ids_of(random_mllm), *half])
    )
    assert read_generations(file, random_mllm).of["a"].text == f"<|vision_start|>{TEXT}\ufffd"
    written(file, answered("a", text="other", token_ids=ids_of(random_mllm)))
    with pytest.raises(MeasureError, match="give the text alone"):
        read_generations(file, random_mllm)


def test_a_rationale_that_the_server_took_out_is_not_missed(random_mllm, tmp_path):
    file = written(tmp_path / "a.jsonl", answered("a", text="red", message={"reasoning": "So."}))
    with pytest.raises(MeasureError, match=r"line 1: .*reasoning parser.*ask for token ids"):
        read_generations(file, random_mllm)


def test_what_failed_and_what_is_missing_is_said(problems, folder, tmp_path, capsys):
    refused = answered(problems[1].id)
    refused["response"]["body"] = None
    refused["error"] = {"message": "too long"}
    output = written(tmp_path / "o.jsonl", answered(problems[0].id, reason="length"), refused)
    out = tmp_path / "responses.jsonl"
    command = ["data", "responses", str(output), "--out", str(out), "--problems", str(folder)]
    assert main(command) == 1 and not out.exists()
    told = capsys.readouterr()
    assert "line 2 holds no response" in told.out and "too long" in told.out
    assert "1 responses, 0 with token ids, 1 cut at the length limit; 2 items have" in told.err
    assert main([*command, "--skip-faulty"]) == 0
    assert [(one["id"], one["text"]) for one in lines(out)] == [(problems[0].id, TEXT)]
    assert main([*command, "--skip-faulty"]) == 1
    assert "exists already" in capsys.readouterr().err


def test_the_command_loads_no_model(problems, folder, tmp_path, capsys):
    out = tmp_path / "requests.jsonl"
    command = ["generate", "qwen2.5-vl-7b", str(folder), "--requests", str(out), "--items", "2"]
    assert main([*command, "--link-pictures"]) == 0
    told = capsys.readouterr().out
    assert f"vllm run-batch -i {out} -o FILE --model Qwen/Qwen2.5-VL-7B-Instruct" in told
    assert f"--allowed-local-media-path {folder}" in told
    assert [one["custom_id"] for one in lines(out)] == [one.id for one in problems[:2]]
    for wrong, sentence in (
        ([], "exists already"),
        (["--batch-size", "8"], "leave --batch-size out"),
    ):
        assert main([*command, *wrong]) == 1
        assert sentence in capsys.readouterr().err
    command[4] = str(tmp_path / "eight.jsonl")
    assert main([*command, "--samples", "8", "--temperature", "1"]) == 0
    assert {one["body"]["n"] for one in lines(tmp_path / "eight.jsonl")} == {8}
    assert "n" not in lines(out)[0]["body"]
    elsewhere = ["generate", "x", str(folder), "--out", str(tmp_path / "r"), "--link-pictures"]
    assert main(elsewhere) == 1
    assert "give --requests" in capsys.readouterr().err


def test_impossible_requests_are_refused(problems, tmp_path):
    for wrong in ({"max_new_tokens": 0}, {"temperature": -1.0}):
        with pytest.raises(MeasureError, match="must be at least"):
            write_requests(tmp_path / "a.jsonl", problems, model="m", **wrong)
    for wrong in ({"samples": 0}, {"samples": 2}):
        with pytest.raises(MeasureError, match="give several a temperature above 0"):
            write_requests(tmp_path / "a.jsonl", problems, model="m", **wrong)
    with pytest.raises(MeasureError, match="no problems"):
        write_requests(tmp_path / "a.jsonl", [], model="m")
