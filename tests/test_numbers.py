"""Numbers of the pages: each has a source, and is what the source says; wrong ones are found."""

import check_numbers
import pytest
from check_numbers import check_page

PAGES = check_numbers.pages()
ACCESS = '"time, eager / probed, T=2048"'  # 2.0085 in benchmarks/access.json


def faults(text: str) -> list[str]:
    return check_page("page.md", text).faults


@pytest.mark.golden
@pytest.mark.parametrize("name", PAGES)
def test_every_number_of_a_page_is_what_the_results_say(name):
    report = check_page(name, PAGES[name])
    assert report.faults == []
    if name in ("README.md", "docs/testbed.md", "docs/validity.md"):
        assert report.compared > 10


def test_a_right_number_is_compared_and_a_wrong_one_found():
    mark = f"<!-- numbers: bench: access {ACCESS} -->"
    right = check_page("page.md", f"It takes 2.01 times as long, on 2 cores.\n\n{mark}\n")
    assert (right.faults, right.compared) == ([], 1)
    assert faults(f"It takes 2.0085 times as long.\n\n{mark}") == []
    (wrong,) = faults(f"\nIt takes 2.02 times as long.\n\n{mark}")
    assert wrong.startswith("page.md:2: 2.02: access:") and "2.0085" in wrong


def test_a_number_without_a_source_and_a_source_without_a_number_are_found():
    assert "no source" in faults("It is 0.98.")[0]
    assert faults("It is 1.5 times `0.98`, in [a](b0.98.md), arXiv 2606.01558, Python 3.11.") == []
    assert "does not stand there" in faults("It is.\n\n<!-- numbers: given: 0.05 -->")[0]
    assert "no source" in faults("It is 0.05.\n\n<!-- numbers: given: 0.05 -->\n\nAnd 0.98.")[0]
    assert "no source" in faults("# A\n\nIt is 0.05.\n\n## B\n\n<!-- numbers: given: 0.05 -->")[0]
    assert "no source 'gives'" in faults("It is 0.05.\n\n<!-- numbers: gives: 0.05 -->")[0]


def test_numbers_have_the_order_of_their_sources():
    mark = "<!-- numbers: given: 0.05 0.16 -->"
    assert faults(f"From 0.05 to 0.16.\n\n{mark}") == []
    assert faults(f"From 0.16 to 0.05.\n\n{mark}") != []


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("+0.027 [−0.014, +0.074]", True),
        ("0.027 [−0.014, 0.074]", True),
        ("0.027 [0.014, 0.074]", False),
        ("−0.027 [−0.074, +0.014]", False),
        ("0.027 [−0.014, 0.075]", False),
    ],
)
def test_an_effect_needs_its_interval_and_signs(text, fits):
    row = '"region reward, questions trained on, rewarded for region, balanced"'
    assert (faults(f"{text}\n\n<!-- numbers: bench: grpo {row} -->") == []) is fits


def test_a_fall_may_be_said_without_a_sign():
    source = check_numbers.Source("fall", (-0.046, -0.050, -0.042))
    read = check_numbers._numbers
    assert source.fits(list(read("by 0.046 [0.042, 0.050]", 1)))
    assert source.fits(list(read("−0.046 [−0.050, −0.042]", 1)))
    assert not source.fits(list(read("+0.046 [+0.042, +0.050]", 1)))


def test_what_was_measured_once_is_listed_and_covers_its_section():
    text = (
        "# A\n\n## B\n\n<!-- measured once: a pilot -->\n\n0.11\n\n### C\n\n0.22\n\n## D\n\n0.33\n"
    )
    report = check_page("page.md", text)
    assert report.once == ["page.md:3: a pilot"]
    assert len(report.faults) == 1 and "0.33" in report.faults[0]
    assert "nothing is marked" in faults("Words.\n\n<!-- measured once: a pilot -->")[0]


def test_counts_are_compared_and_other_whole_numbers_passed():
    counted = check_numbers.Source("cells", (18.0,), counts=True)
    report = check_numbers.Report()
    printed = list(check_numbers._numbers("In 3 kinds, 18 of 20 cells.", 1))
    check_numbers._compare("page.md", printed, [counted], report)
    assert (report.faults, report.compared) == ([], 1)
    check_numbers._compare("page.md", printed[:1], [counted], report)
    assert "does not stand there" in report.faults[0]
