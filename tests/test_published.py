"""Published samples flow through check, convert, edits preview, measure and report, by the CLI."""

import json

import numpy as np
from dataset_files import lines
from PIL import Image
from real import needs_real_data, real_data

from attcot_analysis.cli import main
from attcot_analysis.problems import load_problems, render_response, save_problems
from attcot_analysis.shipped import shipped

ITEMS = 8
"""Of each sample, drawn from every type."""


def drawn(folder, name, size=(96, 64)):
    """A picture in place of one that is not published with the sample; no two are the same."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = np.random.default_rng([ord(letter) for letter in name])
    Image.new("RGB", size, tuple(seed.integers(0, 256, 3).tolist())).save(path)
    return folder


def given(folder):
    """Per sample its source and the options of check and convert."""
    root = real_data()
    yield "clevr", root / "clevr", ["--format", "clevr"]
    yield "chartqa", root / "chartqa", ["--format", "chartqa"]
    natural = root / "naturalbench"
    for _, name, _, _ in json.loads((natural / "test_set_sample.json").read_text()):
        drawn(folder / "natural", name)
    yield (
        "naturalbench",
        natural,
        ["--format", "naturalbench", "--images", str(folder / "natural")],
    )
    think = root / "chartqa-think"
    for row in json.loads((think / "sample.json").read_text()):
        drawn(folder / "think", row["image"])
    yield "chartqa-think", think, ["--images", str(folder / "think")]
    visual = root / "visual-cot"
    for file in sorted((visual / "benchmark_det").iterdir()):
        for line in file.read_text().splitlines():
            one = json.loads(line)
            drawn(folder / "visual", one["img_path"], (one["width"], one["height"]))
        # Only some of the pictures' sizes are published with the sample; the others are missing.
        source = visual / "benchmark" / f"{file.stem}.json"
        options = ["--format", "visual-cot", "--images", str(folder / "visual")]
        yield f"visual-cot-{file.stem}", source, options
    for file in sorted((root / "m3cot-replies").iterdir()):
        yield f"m3cot-{file.stem}", asked(folder, file), ["--format", "m3cot"]


def asked(folder, file):
    """The rows of M3CoT that published replies answer, with drawn pictures."""
    rows = []
    for line in file.read_text().splitlines()[:20]:
        row = json.loads(line)
        question = row["messages"][0].partition("[Question]\n")[2].partition("\n[Choices]")[0]
        rows.append(
            {
                "id": f"{file.stem}-{row['id']}",
                "image": f"{row['id']}.png",
                "question": question,
                **{name: row[name] for name in ("choices", "answer", "domain", "topic")},
                "rationale": row["messages"][-1],
            }
        )
        drawn(folder / file.stem, f"{row['id']}.png")
    return lines(folder / file.stem / "test.jsonl", rows)


@needs_real_data
def test_every_published_sample_flows_through(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CI", "1")
    every, names = [], []
    for name, source, options in given(tmp_path / "sources"):
        drawing = [*options, "--items", str(ITEMS)]
        holds = main(["data", "check", str(source), *drawing])
        checked = capsys.readouterr().out
        out = tmp_path / "problems" / name
        convert = ["data", "convert", str(source), *drawing, "--out", str(out)]
        assert main(convert) == (1 if holds else 0), name  # Refused exactly where a check says so.
        assert main([*convert, "--skip-faulty"]) == 0 if holds else True, name
        converted = capsys.readouterr().out
        assert checked in converted, name
        kept = load_problems(out)
        assert f"{len(kept)} items." in checked and kept, name
        one = ["--edits", "occlude"] if "visual" in name else []  # Large pictures take long.
        assert main(["edits", "preview", str(out), "--items", "1", *one]) == 0, name
        every += [one for one in kept if max(one.size) < 900][: 1 if "m3cot" in name else 2]
        names.append(name.partition("-")[0])
        capsys.readouterr()
    assert set(names) == {"clevr", "chartqa", "naturalbench", "visual", "m3cot"}
    folder = save_problems(every, tmp_path / "every")
    replies = [
        {
            "id": one.id,
            "text": render_response([step.text for step in one.steps] or ["I see it."], one.answer),
        }
        for one in every
    ]
    texts = lines(tmp_path / "replies.jsonl", replies)
    model, run = str(shipped("models/qwen2_5_vl-tiny")), str(tmp_path / "run")
    measure = ["measure", model, str(folder), "--out", run, "--generations", str(texts)]
    more = ["--max-pixels", "16384", "--max-new-tokens", "2", "--edits", "twin", "control", "blank"]
    assert main([*measure, "--foreign", *more, "occlude"]) == 0, capsys.readouterr().err
    assert main(["report", run, "--items", str(len(every))]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert not [one.id for one in every if f"<code>{one.id}</code>" not in page]
