"""Small files in exactly the schemas of published datasets, two records each."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(seed=0, size=(64, 48)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def save(path, seed=0, size=(64, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, size).save(path)


def stored(seed=0, size=(64, 48)):
    """A picture as a parquet file holds it."""
    buffer = io.BytesIO()
    picture(seed, size).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": f"{seed}.png"}


def lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def own(folder):
    for seed, name in enumerate(("1.png", "1-twin.png", "1-control.png", "2.png")):
        save(folder / "photos" / name, seed)
    return lines(
        folder / "mine.jsonl",
        [
            {
                "id": "kettle",
                "image": "photos/1.png",
                "question": "What colour is the kettle?",
                "answer": "red",
                "candidates": ["red", "blue", "green"],
                "habitual": "blue",
                "steps": [
                    "The kettle stands left.",
                    {"text": "It is red.", "boxes": [[4, 4, 20, 20]]},
                ],
                "twin": {
                    "image": "photos/1-twin.png",
                    "answer": "blue",
                    "boxes": [[4, 4, 20, 20]],
                },
                "control": {"image": "photos/1-control.png", "boxes": [[30, 4, 46, 20]]},
            },
            {
                "image": "photos/2.png",
                "question": "How many cups are there?",
                "answer": "3",
                "rationale": "1. One cup is left. 2. Two cups are right.",
                "boxes": [[0, 0, 10, 10]],
                "tolerance": 0.1,
            },
        ],
    )


CLEVR_CAMERA = np.array([7.5, -6.6, 5.4])
CLEVR_COLOURS = {"red": (200, 20, 20), "blue": (20, 20, 200), "green": (20, 160, 20)}


def _clevr_axes():
    ahead = -CLEVR_CAMERA / np.linalg.norm(CLEVR_CAMERA)
    right = np.cross(ahead, (0, 0, 1))
    right /= np.linalg.norm(right)
    return right, np.cross(right, ahead), ahead


def thing(x, y, color, size="large", shape="cube", rotation=0.0):
    """An object of a CLEVR scene that stands at ``(x, y)``, with its place in the picture."""
    place = np.array([x, y, {"large": 0.7, "small": 0.35}[size]])
    right, up, ahead = ((place - CLEVR_CAMERA) @ axis for axis in _clevr_axes())
    return {
        "color": color,
        "size": size,
        "shape": shape,
        "material": "metal",
        "3d_coords": place.tolist(),
        "pixel_coords": [
            round(240 + 525 * right / ahead),
            round(160 - 525 * up / ahead),
            float(ahead),
        ],
        "rotation": rotation,
    }


def clevr_picture(objects):
    """Ray by ray what CLEVR's camera sees: the picture, and which object each pixel shows."""
    right, up, ahead = _clevr_axes()
    across = (np.arange(480) + 0.5 - 240) / 525
    down = (160 - np.arange(320) - 0.5) / 525
    rays = ahead + across[None, :, None] * right + down[:, None, None] * up
    nearest, shown = np.full((320, 480), np.inf), np.full((320, 480), -1)
    for at, one in enumerate(objects):
        far = _hit(one, rays)
        shown = np.where(far < nearest, at, shown)
        nearest = np.minimum(nearest, far)
    pixels = np.random.default_rng(7).integers(110, 146, (320, 480, 1)).repeat(3, axis=2)
    for at, one in enumerate(objects):
        pixels[shown == at] = CLEVR_COLOURS[one["color"]]
    return Image.fromarray(pixels.astype(np.uint8)), shown


def _hit(one, rays):
    """How far along each ray an object is first met; infinite where it is not."""
    radius, turn = {"large": 0.7, "small": 0.35}[one["size"]], one["rotation"]
    start = CLEVR_CAMERA - one["3d_coords"]
    with np.errstate(divide="ignore", invalid="ignore"):
        if one["shape"] == "cube":
            axes = np.array([[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0],
                             [0, 0, 1]])  # fmt: skip
            low, high = _slabs(axes @ start, rays @ axes.T, 0.94 * radius)
        else:
            flat = [0, 1, 2] if one["shape"] == "sphere" else [0, 1]
            a = (rays[..., flat] ** 2).sum(-1)
            b = (rays[..., flat] * start[flat]).sum(-1)
            root = np.sqrt(b**2 - a * ((start[flat] ** 2).sum() - radius**2))
            low, high = (-b - root) / a, (-b + root) / a
            if one["shape"] == "cylinder":
                caps = _slabs(start[2:], rays[..., 2:], radius)
                low, high = np.maximum(low, caps[0]), np.minimum(high, caps[1])
        return np.where(low < high, low, np.inf)


def _slabs(start, rays, half):
    ends = np.stack([(-half - start) / rays, (half - start) / rays])
    return ends.min(0).max(-1), ends.max(0).min(-1)


def _node(function, inputs, *values):
    return {"function": function, "inputs": list(inputs), "value_inputs": list(values)}


def clevr(folder):
    objects = [
        thing(-2.5, -1.5, "red", rotation=200.0),
        thing(0.5, 2.5, "red", shape="sphere"),
        thing(1.5, 0.5, "blue", size="small"),
    ]
    relations = {
        "left": [[], [0], [0]],
        "right": [[1, 2], [], []],
        "front": [[2], [2], []],
        "behind": [[], [], [0, 1]],
    }
    scene = {
        "image_index": 7,
        "image_filename": "CLEVR_val_000007.png",
        "split": "val",
        "objects": objects,
        "relationships": relations,
        "directions": {},
    }
    count = [_node("scene", []), _node("filter_color", [0], "red"), _node("count", [1])]
    query = [
        _node("scene", []),
        _node("filter_shape", [0], "sphere"),
        _node("unique", [1]),
        _node("relate", [2], "front"),
        _node("unique", [3]),
        _node("query_color", [4]),
    ]
    asked = [("How many red things are there?", "2", count)]
    asked += [("What color is the thing in front of the sphere?", "blue", query)]
    questions = [
        {
            "image_index": 7,
            "image_filename": "CLEVR_val_000007.png",
            "split": "val",
            "question": question,
            "answer": answer,
            "program": program,
            "question_index": at,
            "question_family_index": 3,
        }
        for at, (question, answer, program) in enumerate(asked)
    ]
    for name, key, held in (("questions", "questions", questions), ("scenes", "scenes", [scene])):
        path = folder / name / f"CLEVR_val_{name}.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"info": {"split": "val"}, key: held}))
    (folder / "images" / "val").mkdir(parents=True)
    clevr_picture(objects)[0].save(folder / "images" / "val" / "CLEVR_val_000007.png")
    return folder


def chartqa(folder):
    split = folder / "test"
    entries = [
        {"imgname": "bars.png", "query": "What was the value in 2019?", "label": "1,200"},
        {"imgname": "pie.png", "query": "Is the Blue slice the largest?", "label": "Yes"},
    ]
    save(split / "png" / "bars.png", 1)
    save(split / "png" / "pie.png", 2)
    bars = {
        "type": "v_bar",
        "models": [
            {
                "name": "Sales",
                "color": "#ff0000",
                "x": ["2018", "2019"],
                "y": [900, 1200],
                "bboxes": [
                    {"x": 5, "y": 20, "w": 10, "h": 20},
                    {"x": 25, "y": 10, "w": 10, "h": 30},
                ],
            }
        ],
        "general_figure_info": {"title": {"text": "Sales", "bbox": {}}},
    }
    pie = {
        "type": "pie",
        "models": [
            {
                "name": "Blue",
                "color": "#0000ff",
                "bbox": {"x": 8, "y": 8, "w": 20, "h": 20},
                "value": 60,
                "text_label": "Blue",
                "text_bbox": {"x": 30, "y": 4, "w": 12, "h": 6},
            },
            {"name": "Red", "color": "#ff0000", "bbox": {"x": 1, "y": 1, "w": 4, "h": 4}},
        ],
    }
    for name, held in (("bars", bars), ("pie", pie)):
        path = split / "annotations" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(held))
    (split / "test_human.json").write_text(json.dumps(entries))
    (split / "test_augmented.json").write_text(json.dumps(entries[:1]))
    return split


def chartqa_rows(folder):
    rows = [
        {"image": stored(1), "query": "How many?", "label": ["12"], "human_or_machine": 0},
        {"image": stored(2), "query": "Is it?", "label": ["No"], "human_or_machine": 1},
    ]
    return table(folder / "test-00000-of-00001.parquet", rows)


def gqa_cot(folder):
    save(folder / "images" / "2331819.jpg", 1)
    record = {
        "question": "Who is wearing a shirt?",
        "answer": "girl",
        "full_answer": "The girl is wearing a shirt.",
        "image": "2331819.jpg",
        "width": 128,
        "height": 96,
        "bboxs": [[20, 10, 60, 90]],
        "dataset": "gqa",
        "split": "val",
        "thought": "1. We look for a shirt. 2. The girl wears it.",
    }
    other = {**record, "question": "Is there a dog?", "answer": "no", "thought": ""}
    return lines(folder / "gqa_cot_val.jsonl", [record, other])


def viscot(folder):
    save(folder / "cot" / "v7w" / "v7w_276.jpg", 1)
    name = "cot/v7w/v7w_276.jpg"
    said = [
        "<image>\nWhat is blue? Please provide the bounding box coordinate of the region that can "
        "help you answer the question better.",
        "[0.062, 0.188, 0.312, 0.438]",
        "<image>",
        "The car.",
    ]
    record = {
        "image": [name, f"{name}###[4, 4, 20, 20]"],
        "conversations": [
            {"from": ("human", "gpt")[at % 2], "value": value} for at, value in enumerate(said)
        ],
        "dataset": "v7w",
        "split": "train",
        "question_id": 0,
    }
    path = folder / "viscot_363k.json"
    path.write_text(json.dumps([record, record]))
    return path


def m3cot(folder):
    def row(number, answer):
        return {
            "id": f"physics-{number}",
            "category": "physics",
            "image_id": f"p-{number}",
            "question": "Which magnet is stronger?",
            "choices": ["the left one", "the right one"],
            "context": "Two magnets are shown.",
            "answer": answer,
            "rationale": "The left magnet holds two clips. The right one holds five.",
            "split": "test",
            "image": stored(number),
            "domain": "science",
            "topic": "physical-science",
        }

    return table(folder / "data" / "test-00000.parquet", [row(1, "B"), row(2, "A")]).parent


def a_okvqa(folder):
    def entry(number, right):
        return {
            "split": "val",
            "image_id": number,
            "question_id": f"22jbM6gDxdaMaunuzgrsB{number}",
            "question": "What is in the motorcyclist's mouth?",
            "choices": ["toothpick", "food", "popsicle stick", "cigarette"],
            "correct_choice_idx": right,
            "direct_answers": ["cigarette"] * 10,
            "difficult_direct_answer": False,
            "rationales": ["He's smoking while riding.", "It hangs from his lips."],
        }

    for number in (139, 285):
        save(folder / "val2017" / f"{number:012d}.jpg", number)
    path = folder / "aokvqa_v1p0_val.json"
    path.write_text(json.dumps([entry(139, 3), entry(285, 1)]))
    return path


def a_okvqa_rows(folder):
    row = {
        "image": stored(3),
        "question_id": "abc",
        "question": "What is it?",
        "choices": ["a", "b"],
        "correct_choice_idx": 1,
        "direct_answers": "['b']",
        "difficult_direct_answer": False,
        "rationales": [],
    }
    return table(folder / "validation.parquet", [row])


def vstar(folder):
    records = []
    for number, (name, right) in enumerate((("sa_1", "B"), ("sa_2", "A"))):
        save(folder / "direct_attributes" / f"{name}.jpg", number)
        text = (
            "What is the material of the glove?\n(A) rubber\n(B) cotton\n(C) kevlar\n(D) leather\n"
            "Answer with the option's letter from the given choices directly."
        )
        records.append(
            {
                "image": f"direct_attributes/{name}.jpg",
                "text": text,
                "category": "direct_attributes",
                "label": right,
                "question_id": number,
            }
        )
        notes = {
            "target_object": ["glove"],
            "bbox": [[10, 12, 8, 6]],
            "question": "What is the material of the glove?",
            "options": ["cotton", "rubber", "kevlar", "leather"],
        }
        (folder / "direct_attributes" / f"{name}.json").write_text(json.dumps(notes))
    lines(folder / "test_questions.jsonl", records)
    return folder


def naturalbench(folder):
    yes_no = {
        "Index": 0,
        "Image_0": stored(1),
        "Image_1": stored(2, (48, 64)),
        "Question_0": "Is the dog asleep?",
        "Question_1": "Is the dog awake?",
        "Image_0_Question_0": "Yes",
        "Image_1_Question_0": "No",
        "Image_0_Question_1": "No",
        "Image_1_Question_1": "Yes",
        "Question_Type": "yes_no",
        "Source": "Flickr30K",
    }
    choice = {
        **yes_no,
        "Index": 1,
        "Question_0": "Where is the cat? Option: A: on the mat; B: in the box;",
        "Question_1": "What is full? Option: A: the box; B: the mat;",
        "Image_0_Question_0": "A",
        "Image_1_Question_0": "B",
        "Image_0_Question_1": "B",
        "Image_1_Question_1": "A",
        "Question_Type": "multiple_choice",
    }
    return table(folder / "train-00000-of-00001.parquet", [yes_no, choice]).parent


def vilp(folder):
    def row(number):
        held = {"question": "A screwdriver is used to tighten screws. Which tool is this?"}
        for at, answer in enumerate(("screwdriver", "hammer", "pen"), start=1):
            held |= {f"image{at}": stored(number + at), f"answer{at}": answer}
        return held

    return table(folder / "train.parquet", [row(0), row(10)])


def cv_bench(folder):
    row = {"idx": 0, "type": "2D", "task": "Relation", "image": stored(1), "source": "COCO",
           "question": "Where is the cup (marked A. or B)?", "choices": ["above", "below"],
           "answer": "(B)", "prompt": "..."}  # fmt: skip
    return table(folder / "test_2d.parquet", [row, row | {"idx": 1, "answer": "(A)"}])


def blink(folder):
    row = {"idx": "val_Counting_1", "sub_task": "Counting", "question": "How many?",
           "image_1": stored(1), "choices": ["1", "3"], "answer": "(B)"}  # fmt: skip
    row |= {f"image_{at}": None for at in (2, 3, 4)}
    rows = [row, row | {"idx": "val_Counting_2", "answer": "(A)"}]
    return table(folder / "Counting" / "val-00000-of-00001.parquet", rows)


def mmstar(folder):
    asked = "Which is it?\nOptions: A: The box is on the book., B: It is below., C: None, D: Both"
    row = {"index": 0, "question": asked, "image": stored(1)["bytes"], "answer": "B",
           "category": "coarse perception", "l2_category": "image emotion"}  # fmt: skip
    return table(folder / "mmstar.parquet", [row, row | {"index": 1, "answer": "A"}])


def scienceqa(folder):
    row = {"image": stored(1), "question": "Which is it?", "choices": ["a cat", "a dog"],
           "answer": 1, "hint": "Look at the picture.", "solution": "It barks. So it is a dog.",
           "subject": "natural science", "topic": "biology"}  # fmt: skip
    return table(folder / "test-00000-of-00001.parquet", [row, row | {"answer": 0}])


def vqa_rad(folder):
    row = {"image": stored(1), "question": "Is it enlarged?", "answer": "yes"}
    return table(folder / "test-00000-of-00001.parquet", [row, row | {"answer": "left lung"}])


def slake(folder):
    save(folder / "imgs" / "xmlab1" / "source.jpg", 1)
    (folder / "imgs" / "xmlab1" / "detection.json").write_text("[]")
    row = {"img_id": 1, "img_name": "xmlab1/source.jpg", "question": "Which organ?",
           "answer": "Liver", "q_lang": "en", "location": "Abdomen", "modality": "MRI",
           "answer_type": "OPEN", "base_type": "vqa", "triple": [], "qid": 11}  # fmt: skip
    for split in ("train", "test"):
        rows = [row, row | {"qid": 12, "answer": split}]
        (folder / f"{split}.json").write_text(json.dumps(rows))
    return folder


def charxiv(folder):
    row = {"figure_path": "images/1.jpg", "image": stored(1), "reasoning_q": "Which is highest?",
           "reasoning_a": "R1", "reasoning_q_source": 1, "category": "cs"}  # fmt: skip
    return table(folder / "val.parquet", [row, row | {"figure_path": "images/2.jpg"}])


def geometry3k(folder):
    row = {"images": [stored(1)], "problem": "<image>Find x.", "answer": "2 \\sqrt { 221 }"}
    return table(folder / "test-00000-of-00001.parquet", [row, row | {"answer": "3"}])


def hallusionbench(folder):
    save(folder / "VD" / "illusion" / "0_0.png", 1)
    row = {"category": "VD", "subcategory": "illusion", "visual_input": "1", "set_id": "0",
           "figure_id": "0", "question_id": "0", "question": "Is the left circle larger?",
           "gt_answer": "1", "filename": "./VD/illusion/0_0.png"}  # fmt: skip
    path = folder / "HallusionBench.json"
    path.write_text(json.dumps([row, row | {"question_id": "1", "gt_answer": "0"}]))
    return path


def mm_gcot(folder):
    save(folder / "vg" / "VG_100K" / "7.jpg", 1, (100, 50))
    row = {"id": 1, "img": "vg/VG_100K/7.jpg", "question": "Is the cup on the tray blue?",
           "cot": "Step 1: The tray is at [0.100, 0.200, 0.900, 0.800].\nStep 2: The cup on it "
           "is at [0.500, 0.400, 0.200, 0.300].\nStep 3: The cup is red.", "answer": "No",
           "coordinate": "[0.500, 0.400, 0.200, 0.300]", "qualified": True}  # fmt: skip
    other = row | {"id": 3, "question": "What is on the tray?", "answer": "Cup"}
    (folder / "GCoT_dataset_judge_test.json").write_text(json.dumps([row, other]))
    return folder


def treebench(folder):
    held = base64.b64encode(stored(1)["bytes"]).decode()
    row = {"index": 0, "image": held, "question": "What is the man doing?", "answer": "B",
           "multi-choice options": "A. running\nB. sitting\nC. standing\nD. jumping",
           "category": "Perception/Physical State"}  # fmt: skip
    return table(folder / "train.parquet", [row, row | {"index": 1, "answer": "C"}])


def we_math(folder):
    save(folder / "2steps" / "image" / "9-1.png", 1)
    row = {"ID": "2steps_9", "split": "testmini", "knowledge concept": "Left-Right Position",
           "question": "As shown in the diagram, the block to the right of H is ( ).",
           "option": "A. F;    B. D;    C. B;    D. I; E. No correct answer", "answer": "D",
           "image_path": "2steps/image/9-1.png", "key": "2steps_1", "question number": 9,
           "knowledge concept description": "A lateral relationship."}  # fmt: skip
    other = row | {"ID": "2steps_10", "option": "A. 3, 5, 4; B. 3, 50, 40.; C. No correct answer"}
    (folder / "testmini.json").write_text(json.dumps([row, other | {"answer": "B"}]))
    return folder / "testmini.json"


FILES = {
    "jsonl": own,
    "clevr": clevr,
    "chartqa": chartqa,
    "visual-cot": gqa_cot,
    "m3cot": m3cot,
    "a-okvqa": a_okvqa,
    "vstar": vstar,
    "naturalbench": naturalbench,
    "vilp": vilp,
    "cv-bench": cv_bench,
    "blink": blink,
    "mmstar": mmstar,
    "scienceqa": scienceqa,
    "vqa-rad": vqa_rad,
    "slake": slake,
    "charxiv": charxiv,
    "geometry3k": geometry3k,
    "hallusionbench": hallusionbench,
    "mm-gcot": mm_gcot,
    "treebench": treebench,
    "we-math": we_math,
}
"""Per format what writes its files into an empty folder; returns what a person would point at."""


def made(folder: Path, format: str) -> Path:
    path = folder / format
    path.mkdir()
    return FILES[format](path)
