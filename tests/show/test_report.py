import base64
import hashlib
import json
import re
from html import unescape
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from jinja2 import UndefinedError
from markupsafe import Markup
from PIL import Image
from show.samples import make_metrics, make_report, make_summary

from attcot_analysis.errors import RunError, ShowError
from attcot_analysis.show import html
from attcot_analysis.show.explorer.page import picture_url
from attcot_analysis.show.report.page import Report, write_report
from attcot_analysis.show.report.questions import Verdict, focus_metrics, verdict


class Page(HTMLParser):
    """Collects tags, ids and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name == "href"]
        if tag not in {"meta", "link", "img", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def text(report) -> str:
    return report.read_text()


@pytest.fixture(scope="module")
def hostile(hostile_report) -> str:
    return hostile_report.read_text()


def test_page_is_well_formed_and_has_every_section(text):
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    sections = "answer curves metrics comparisons heatmaps items methods meaning limits provenance"
    assert set(sections.split()) <= set(page.ids)
    inside = [link[1:] for link in page.links if link.startswith("#")]
    assert inside and set(inside) <= set(page.ids)
    assert page.tags.count("svg") >= 6 and page.tags.count("figure") == 6


def scripts(source: str) -> list[str]:
    return re.findall(r"<script[^>]*>(.*?)</script>", source, re.DOTALL)


def test_page_loads_nothing_and_runs_only_its_own_script(text, hostile):
    for source in (text, hostile):
        page = Page(source)
        assert page.tags.count("script") == 1
        digest = hashlib.sha256(scripts(source)[0].encode()).digest()
        assert f"script-src &#39;sha256-{base64.b64encode(digest).decode()}&#39;" in source
        assert not [name for name, _ in page.attributes if name.startswith("on")]
        for name, value in page.attributes:
            if name in ("src", "href", "xlink:href"):
                assert value.startswith(("#", "data:")), value
        assert "default-src &#39;none&#39;; img-src data:;" in source
        assert not re.search(r"url\((?!#)", source.replace(scripts(source)[0], ""))
    assert scripts(text) == scripts(hostile)


def test_hostile_text_is_text(text, hostile):
    assert hostile.count("<script") == text.count("<script") == 1
    assert hostile.count("</style>") == text.count("</style>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in hostile
    assert "onerror=alert(2)&gt;" in hostile
    assert Page(hostile).open == []


def test_numbers_of_both_tables_are_in_the_page(text, summary, comparisons):
    for row in summary.itertuples():
        assert f"{row.value:.3f}" in text and f"{row.low:.3f}" in text
    for row in comparisons.itertuples():
        assert f"{row.value:+.3f}".replace("-", "−").replace("+0.000", "0.000") in text
    assert "192 items × 4 seeds" in text


def test_answers_are_marked_right_wrong_and_habitual(text, problem):
    assert f"✓ {problem.answer}" in text
    assert f"✗ {problem.habitual} (habitual)" in text
    assert "– unparsed" in text


def test_verdicts_come_first_and_the_pair_of_the_page_before_the_others(text):
    headings = [
        text.index(f"{one} compared with {other}")
        for one, other in (("Att-CoT", "CoT-SFT"), ("CoT-SFT", "Base"), ("Att-CoT", "Base"))
    ]
    assert headings == sorted(headings)
    assert text.index("Compared with CoT-SFT, Att-CoT ") < text.index("Three arms on made-up")
    assert text.index('class="verdicts"') < text.index('id="curves"')
    assert "Before you quote this" in text and "These numbers are made up." in text


def test_items_say_where_the_answer_settled_and_what_was_said_on_the_edits(text, problem):
    items = re.findall(r"<article.*?</article>", text, re.DOTALL)
    assert len(items) == 3
    first, silent, _ = items
    strip = json.loads(unescape(re.search(r'data-gallery="([^"]+)"', text)[1]))["entries"]
    only = ["only one is right", "only Att-CoT is right"]
    assert [entry["groups"] for entry in strip] == [only, ["both are wrong"], ["both are right"]]
    assert f"Settled on <b>{problem.habitual}</b> before the first step." in first
    assert f"Settled on <b>{problem.answer}</b> after step 3 of 3." in first
    assert first.count('class="here"') == 3 and "Settled on" not in silent
    assert "I do not know." in silent
    assert "On a blank picture: unparsed." in first
    assert "After the edit mine:&lt;b&gt;: red." in first
    assert f"Twin: the answer changes. Right answer: <b>{problem.twin.answer}</b>" in first
    assert first.count("<img") == 3


def test_settled_answers_are_bars_of_the_arms_colours(text):
    assert "--arm:var(--c-d55e00, #d55e00)" in text and "--p:0.900" in text
    assert "--c-d55e00:" in text.split("prefers-color-scheme: dark")[-1]


def test_metrics_are_explained_with_what_would_falsify_them(text, metrics):
    for note in metrics.values():
        assert f"<code>{note.name}</code>" in text
    assert text.count("What would falsify the reading: ") == len(metrics)
    assert "Attention is not evidence" in text


def test_figures_are_also_saved_with_their_data(tmp_path, comparisons):
    make_report(tmp_path / "report.html", figures=tmp_path / "figures")
    stems = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert len(stems) == 6 and {"metrics", "comparisons", "commitment"} <= stems
    for stem in stems:
        for suffix in ("svg", "json"):
            assert (tmp_path / "figures" / f"{stem}.{suffix}").stat().st_size > 100
    held = json.loads((tmp_path / "figures" / "comparisons.json").read_text())
    assert {row["metric"] for row in held["data"]} < set(comparisons["metric"])
    assert "Second arm minus first" in held["about"]["caption"]


def test_same_input_same_page(text, tmp_path):
    assert make_report(tmp_path / "again.html").read_text() == text


def test_only_what_there_is_becomes_a_section(tmp_path, summary, metrics):
    report = Report(title="Bare", summary=summary, metrics=metrics)
    path = write_report(report, tmp_path / "deep" / "report.html")
    ids = Page(path.read_text()).ids
    assert "metrics" in ids and "limits" in ids
    assert not {"comparisons", "curves", "heatmaps", "items", "provenance"} & set(ids)


def test_nothing_is_overwritten_silently(tmp_path, summary, metrics):
    path = tmp_path / "report.html"
    path.write_text("mine")
    report = Report(title="t", summary=summary, metrics=metrics)
    with pytest.raises(RunError, match="already there"):
        write_report(report, path)
    assert path.read_text() == "mine"
    write_report(report, path, overwrite=True)
    assert path.read_text() != "mine"


def test_a_table_without_interval_is_refused_and_leaves_no_file(tmp_path, summary, metrics):
    report = Report(title="t", summary=summary.drop(columns="low"), metrics=metrics)
    with pytest.raises(ShowError, match="low"):
        write_report(report, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_n_is_said_per_cell_where_it_differs(tmp_path):
    metrics = make_metrics()
    summary = make_summary(metrics)
    summary.loc[summary.metric == "mass", "n_items"] = 150
    summary.loc[summary.metric == "follow_twin", ["low", "high"]] = np.nan
    report = Report(title="t", summary=summary, metrics=metrics)
    path = write_report(report, tmp_path / "r.html")
    text = path.read_text()
    assert text.count("150 items × 4 seeds") == 2
    assert "[–,\N{NO-BREAK SPACE}–]" in text


def test_large_pictures_are_shrunk_and_small_ones_kept_pixel_by_pixel():
    noise = np.random.default_rng(0).integers(0, 255, (900, 1200, 3), dtype=np.uint8)
    large = Image.open(BytesIO(data_of(picture_url(Image.fromarray(noise)))))
    assert large.size == (512, 384) and large.format == "JPEG"
    small = Image.fromarray(noise[:96, :96])
    kept = Image.open(BytesIO(data_of(picture_url(small))))
    assert np.array_equal(np.asarray(kept), np.asarray(small))


def data_of(url: str) -> bytes:
    return base64.b64decode(url.partition("base64,")[2])


@pytest.mark.parametrize(
    ("low", "high", "better", "expected"),
    [
        (0.01, 0.2, "higher", Verdict("higher", True)),
        (0.01, 0.2, "lower", Verdict("higher", False)),
        (-0.2, -0.01, "lower", Verdict("lower", True)),
        (-0.2, -0.01, None, Verdict("lower", None)),
        (-0.2, 0.01, "higher", Verdict("inconclusive", None)),
        (0.0, 0.2, "higher", Verdict("inconclusive", None)),
        (float("nan"), float("nan"), "higher", Verdict("inconclusive", None)),
    ],
)
def test_verdicts_come_from_the_interval(low, high, better, expected):
    assert verdict(low, high, better) == expected


def test_verdicts_in_words():
    assert str(Verdict("higher", True)) == "higher, better"
    assert str(Verdict("lower", None)) == "lower"
    assert str(Verdict("inconclusive", None)) == "inconclusive"


def test_without_focus_metrics_all_are_named(metrics):
    assert focus_metrics(["zeta", "commitment_area"], metrics) == ["commitment_area", "zeta"]


def test_templates_escape_every_text_and_miss_no_name():
    record = {"name": "<b>\"'&", "page": '<p title="x">', "still": ""}
    written = html.render("explorer/templates/fragment.html.j2", record)
    assert 'title="&lt;b&gt;&#34;&#39;&amp;"' in written
    assert 'srcdoc="&lt;p title=&#34;x&#34;&gt;"' in written
    trusted = record | {"page": Markup(record["page"])}
    assert html.render("explorer/templates/fragment.html.j2", trusted) == written
    with pytest.raises(UndefinedError, match="still"):
        html.render("explorer/templates/fragment.html.j2", {"name": "", "page": ""})
