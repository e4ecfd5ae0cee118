"""An explorer of several items: what the gallery says of each, one item at a time, bounded size."""

import json
import re
from dataclasses import replace

import pandas as pd
import pytest

from attcot_analysis.errors import MeasureError, ShowError
from attcot_analysis.problems.problem import replaced
from attcot_analysis.show import explore
from attcot_analysis.show.explorer.gallery import gallery_spec
from attcot_analysis.show.explorer.page import explorer_page, gallery_page
from attcot_analysis.show.explorer.widget import Gallery
from benchmarks.explorer import planted_record

VALUES = {
    "early": {"commitment_area": 0.9, "premature": 1.0, "accuracy_direct": 1, "accuracy_cot": 0},
    "late": {"commitment_area": 0.2, "premature": 0.0, "accuracy_direct": 1, "accuracy_cot": 1},
    "unread": {"delta_log_p_twin": 2.5, "unparsed_cot": 1, "accuracy_direct": 0, "accuracy_cot": 0},
}


def planted(name, **knobs):
    record = planted_record(models=2, **knobs)
    models = [replace(one, commitment=one.commitment.assign(item=name)) for one in record.models]
    return replace(record, problem=replaced(record.problem, id=name), models=tuple(models))


def planted_values():
    rows = [
        {"model": "base", "seed": seed, "item": item, "metric": metric, "value": value}
        for item, values in VALUES.items()
        for metric, value in values.items()
        for seed in range(2)
    ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def records():
    return {name: planted(name, steps=2 + at) for at, name in enumerate(VALUES)}


@pytest.fixture(scope="module")
def spec(records):
    return gallery_spec([record.problem for record in records.values()], planted_values())


@pytest.fixture
def gallery(records):
    measured = []

    def record_of(problem):
        measured.append(problem.id)
        if problem.id == "unread":
            raise MeasureError("The response has no step.")
        return records[problem.id]

    problems = [record.problem for record in records.values()]
    return Gallery(problems, record_of, values=planted_values()), measured


def test_every_item_has_its_groups_and_what_it_is_sorted_by(records, spec):
    early, late, unread = spec["entries"]
    assert early["groups"] == ["hurt by CoT", "premature"] and late["groups"] == []
    assert unread["groups"] == ["unread"]
    assert [entry["sort"] for entry in spec["entries"]] == [*VALUES.values()]
    assert all(entry["picture"].startswith("data:image/") for entry in spec["entries"])
    ways = {
        "most premature (commitment area)": -1,
        "largest loss on the twin (nats)": -1,
        "accuracy, CoT (lowest first)": 1,
        "accuracy, direct (lowest first)": 1,
        "unparsed, CoT (highest first)": -1,
        "premature commitment (highest first)": -1,
    }
    assert {order["said"]: order["turn"] for order in spec["orders"]} == ways
    problems = [record.problem for record in records.values()]
    assert [entry["groups"] for entry in gallery_spec(problems)["entries"]] == [[], [], []]
    # As pandas joins them with an empty table.
    joined = pd.concat([pd.DataFrame(columns=planted_values().columns), planted_values()])
    assert joined["value"].dtype == object and gallery_spec(problems, joined) == spec
    both = pd.concat([planted_values(), planted_values().assign(model="other")])
    for given, message in (((problems, both), "2 models"), (([],), "0 items")):
        with pytest.raises(ShowError, match=message):
            gallery_spec(*given)


def test_an_item_is_measured_when_it_is_opened_and_alone_on_the_page(gallery, records):
    shown, measured = gallery
    assert measured == ["early"] and shown.spec["item"] == "early"
    shown.token = 5
    shown.item = 1
    assert measured == ["early", "late"] and shown.record is records["late"]
    assert shown.spec["item"] == "late" and shown.spec["steps"][-1] == 0
    assert shown.selection.token == shown.token != 5
    sent = []
    shown.send = lambda message, buffers: sent.append(message)
    shown._handle_custom_msg({"kind": "planes", "names": ["attention.0.1.1"]}, [])
    assert sent[0]["item"] == "late", "a page that has moved on must not take them for its own"
    shown.item = 2
    assert shown.failed == "The response has no step." and shown.spec["item"] == "late"
    shown.item = 0
    assert shown.failed == "" and shown.spec["item"] == "early" and measured.count("early") == 1
    with pytest.raises(ShowError, match="items 0 to 2"):
        shown.item = 3


def test_a_page_of_several_stays_within_its_budget_and_names_what_failed(
    gallery, records, tmp_path
):
    shown, _ = gallery
    page = shown.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    states = re.findall(r'id="state(\d*)">(.*?)</script>', page)
    assert [place for place, _ in states] == ["", "1"]
    assert [json.loads(text)["spec"]["item"] for _, text in states] == ["early", "late"]
    entries = json.loads(re.search(r'id="gallery">(.*?)</script>', page)[1])["entries"]
    assert [entry.get("failed") for entry in entries] == [None, None, "The response has no step."]
    several = [planted(f"item {at}") for at in range(4)]
    told = gallery_spec([record.problem for record in several])
    alone = explorer_page(several[0], budget=40_000)
    four = gallery_page(several, told, budget=160_000)
    assert len(four) < 4 * len(alone)
    note = json.loads(re.search(r'id="state3">(.*?)</script>', four)[1])["spec"]["note"]
    assert note == json.loads(re.search(r'id="state">(.*?)</script>', alone)[1])["spec"]["note"]
    with pytest.raises(ShowError, match="None of the 1 items"):
        gallery_page(["It has no step."], {**told, "entries": told["entries"][:1]})


def test_several_problems_make_a_gallery(random_mllm, problem):
    text = random_mllm.format.right_response(problem)
    shown = explore(random_mllm, [problem], {problem.id: text}, sources=["attention"])
    assert isinstance(shown, Gallery) and shown.spec["item"] == problem.id
    assert "".join(shown.record.tokens).startswith("<think>")
    with pytest.raises(ShowError, match="pictures of their own"):
        explore(random_mllm, [problem], image=problem.image)


def test_hostile_names_stay_text():
    hostile = "</script><script>alert(1)</script><!--"
    made = [planted(f"{hostile}{at}", text=hostile) for at in range(2)]
    told = gallery_spec([record.problem for record in made])
    page = gallery_page([made[0], hostile], told, title=hostile)
    assert page.lower().count("<script") == 4 == page.lower().count("</script")
    assert "<!--" not in page
    entries = json.loads(re.search(r'id="gallery">(.*?)</script>', page)[1])["entries"]
    assert entries[1]["item"] == f"{hostile}1" and entries[1]["failed"] == hostile
