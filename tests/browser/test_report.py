"""The report in headless chromium: read, stepped through and printed; nothing leaves the page."""

import pytest
from browser.pages import SIZES, check_both_looks, check_look, keep
from playwright.sync_api import expect
from show import samples

from attcot_analysis.show.explorer.page import explorer_fragment, script_policy
from attcot_analysis.show.report.page import ReportEmbed
from benchmarks.explorer import planted_record

pytestmark = pytest.mark.browser

PARTS = "answer curves metrics comparisons heatmaps explore items methods meaning limits provenance"
both_sizes = pytest.mark.parametrize("size", list(SIZES))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    record = planted_record(models=2)
    embeds = [
        ReportEmbed(f"Item {number}", "Play.", explorer_fragment(record), script_policy())
        for number in (1, 2)
    ]
    path = tmp_path_factory.mktemp("report") / "report.html"
    return samples.make_report(path, explorers=embeds)


@pytest.fixture(scope="module")
def sorted_report(tmp_path_factory):
    values = [
        {"accuracy_cot": 1.0, "commitment_area": 0.75, "a number of mine": 1.0},
        {"accuracy_cot": 0.0, "commitment_area": 0.25},
        {"accuracy_cot": 0.5, "commitment_area": 0.5, "a number of mine": 2.0},
    ]
    path = tmp_path_factory.mktemp("sorted") / "report.html"
    return samples.make_report(path, values=values)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    path = tmp_path_factory.mktemp("hostile") / "report.html"
    return samples.make_report(path, hostile=samples.HOSTILE)


def shown_items(page) -> list[str]:
    return page.locator("article.item:visible").evaluate_all("all => all.map(one => one.id)")


@both_sizes
def test_every_section_and_figure_is_visible(visit, report, size):
    page = visit(report, size)
    for name in PARTS.split():
        section = page.locator(f"section#{name}")
        assert section.is_visible() and section.bounding_box()["height"] > 80
    figures = page.locator("figure svg")
    assert figures.count() == 6
    for figure in figures.all():
        box = figure.bounding_box()
        assert box["width"] > 200 and box["height"] > 150
        assert figure.locator("text").count() > 3, "labels are text"
    maps = [one.bounding_box() for one in page.locator("#heatmaps image").all()]
    assert sum(box["width"] > 40 and box["height"] > 40 for box in maps) == 9
    for picture in page.locator("article.item:visible img").all():
        assert picture.evaluate("i => i.complete && i.naturalWidth > 0")
        assert picture.bounding_box()["width"] > 120 and picture.get_attribute("alt")
    keep(page, f"report-{size}", full_page=True)


@both_sizes
def test_the_verdict_is_on_the_first_screen(visit, report, size):
    page = visit(report, size)
    headline = page.locator(".headline")
    assert headline.inner_text().startswith("Compared with CoT-SFT, Att-CoT ")
    box = headline.bounding_box()
    assert box["y"] + box["height"] < SIZES[size][1]
    words = page.locator(".verdicts").first.locator(".word").all_inner_texts()
    assert len(words) == 7 and set(words) <= {"Yes", "The opposite", "Inconclusive"}


@both_sizes
def test_the_page_never_scrolls_sideways(visit, report, hostile, size):
    for path in (report, hostile):
        page = visit(path, size)
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]


@both_sizes
def test_a_figure_that_is_wider_than_the_screen_says_so(visit, report, size):
    page = visit(report, size)
    wide = page.locator("figure .scroll.wide")
    assert wide.count() > 0
    for one in wide.all():
        scrolls = one.evaluate("box => box.scrollWidth > box.clientWidth")
        said = one.evaluate("box => getComputedStyle(box.parentElement, '::before').content")
        assert scrolls == ("scroll it sideways" in said) == (size == "narrow")


@pytest.mark.parametrize(("size", "scheme"), [("wide", "light"), ("narrow", "dark")])
def test_the_report_looks_as_it_did(visit, report, size, scheme):
    page = visit(report, size, color_scheme=scheme)
    check_both_looks(page, f"report_{size}")
    page.emulate_media(color_scheme=scheme)
    page.evaluate("document.querySelector('figure:has(.wide)').scrollIntoView()")
    keep(page, f"report_figure_{size}_{scheme}")
    check_look(page, f"report_figure_{size}_{scheme}")


def tab_to(page, wanted: str, back: bool = False) -> None:
    """Press Tab until what has the focus fits a selector."""
    for _ in range(60):
        page.keyboard.press("Shift+Tab" if back else "Tab")
        if page.evaluate("wanted => document.activeElement.matches(wanted)", wanted):
            return
    raise AssertionError(f"the keyboard does not reach {wanted}")


@both_sizes
def test_two_minutes_by_keyboard_alone(visit, report, size):
    """Open, find where it looked at step 2, when it decided, and what the edit changed."""
    page = visit(report, size)
    if size == "narrow":
        tab_to(page, "nav summary")
        page.keyboard.press("Enter")
    tab_to(page, "nav a[href='#items']")
    page.keyboard.press("Enter")
    # The contents lead to the items; the next stop is their strip.
    tab_to(page, "[aria-label='Items'] select")
    page.keyboard.press("End")
    expect(page.get_by_role("status")).to_have_text("1 of 3 items")
    page.keyboard.press("Home")
    tab_to(page, "[role=option]")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    assert shown_items(page) == ["item-0"]
    item = page.locator("#item-0")
    expect(item.locator(".settled").first).to_contain_text("Settled on")
    # What did the edit change?
    twin = item.locator(".version", has_text="Twin: the answer changes")
    expect(twin).to_contain_text("Right answer")
    expect(twin.locator(".said")).to_contain_text("Att-CoT: \N{BALLOT X}")
    # When had it decided, and how much did it look at step 2?
    tab_to(page, "#item-0 .run:last-child .scroll")
    last = item.locator(".run").last
    expect(last.locator("p.settled")).to_be_in_viewport()
    expect(last.locator("p.settled")).to_contain_text("after step 3 of 3")
    expect(last.locator("tbody tr").nth(2).locator("td").last).to_have_text("0.30")
    # And at what?
    tab_to(page, "#item-0 a[href^='#figure-']", back=True)
    page.keyboard.press("Enter")
    maps = page.locator(page.evaluate("location.hash"))
    expect(maps.locator("text", has_text="step 2").first).to_be_in_viewport()
    # The same of every token, in the explorer of an item.
    tab_to(page, "iframe")
    frame = page.frame_locator("#explore iframe >> nth=0")
    for _ in range(40):
        page.keyboard.press("Tab")
        if frame.locator(".ax-token:focus").count():
            break
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(frame.get_by_role("status")).to_contain_text("(step 2)")
    expect(frame.locator(".ax-readout")).to_contain_text("strongest patch")


def test_items_are_filtered_by_who_is_right_and_sorted_by_any_metric(visit, sorted_report):
    page = visit(sorted_report)
    strip = page.get_by_role("listbox", name="Items").get_by_role("option")
    kinds, order = (page.get_by_label(name, exact=True) for name in ("Show", "Sort"))
    for label, at in (
        ("only one is right (1)", 0),
        ("only Att-CoT is right (1)", 0),
        ("both are right (1)", 2),
        ("both are wrong (1)", 1),
    ):
        kinds.select_option(label=label)
        expect(strip).to_have_count(1)
        strip.click()
        assert shown_items(page) == [f"item-{at}"]
    kinds.select_option(label="all (3)")
    names = strip.locator("span").all_inner_texts()
    for label, turned in (
        ("accuracy, CoT (lowest first)", [1, 2, 0]),
        ("most premature (commitment area)", [0, 2, 1]),
        ("a number of mine (highest first)", [2, 0, 1]),
    ):
        order.select_option(label=label)
        assert strip.locator("span").all_inner_texts() == [names[at] for at in turned]
    expect(strip.first).to_contain_text("a number of mine: 2.000")
    expect(strip.last).to_contain_text("a number of mine: not measured")


def test_a_link_opens_an_item_and_a_metrics_note(visit, report):
    page = visit(f"{report.as_uri()}#item-2")
    assert shown_items(page) == ["item-2"]
    expect(page.locator("#item-2 h3")).to_be_in_viewport()
    page.evaluate("location.hash = '#item-1'")
    expect(page.locator("#item-1 h3")).to_be_in_viewport()
    note = page.locator("#metric-accuracy-cot")
    assert note.get_attribute("open") is None
    page.locator("#metrics table a").first.click()
    expect(note).to_have_attribute("open", "")
    expect(note.get_by_text("What would falsify the reading")).to_be_in_viewport()


def test_without_scripts_all_items_are_there(visit, report):
    page = visit(report, java_script_enabled=False)
    assert len(shown_items(page)) == 3
    assert page.locator(".attcot-gallery").count() == 0


def test_explorers_work_inside_the_page_and_load_when_opened(visit, report):
    page = visit(report)
    first, second = (
        page.frame_locator("#explore iframe >> nth=0"),
        page.locator("#explore details").nth(1),
    )
    expect(first.locator("canvas").first).to_be_visible()
    before = first.locator("body").inner_text()
    slider = first.get_by_role("slider", name="Layer")
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(first.locator("body")).not_to_have_text(before)
    assert not second.locator("iframe").is_visible()
    second.locator("summary").click()
    expect(second.locator("iframe")).to_be_visible()


def test_hostile_text_is_shown_as_text(visit, hostile):
    page = visit(hostile)
    written = "<script>alert(1)</script>"
    for part in ("h1", ".lead", ".notes", "#items h3", "#items .note", ".run h4", ".arms"):
        found = page.locator(part).all_inner_texts()
        assert any(written in text for text in found), part
    assert written in page.locator(".run table").nth(1).inner_text()
    assert written in page.get_by_role("option", name="item-000").get_attribute("title")
    page.locator("#items summary").first.click()
    assert any(written in text for text in page.locator("#items pre").all_inner_texts())
    for part in ("#metrics svg", "#heatmaps svg"):
        assert "<script>" in page.locator(part).first.text_content()
    assert page.locator("script").count() == 1
    assert page.locator("img[src=x]").count() == 0


def test_no_other_script_runs_even_if_one_got_in(browser, report):
    page = browser.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(report.as_uri())
    page.evaluate(
        """() => {
            document.body.append(Object.assign(
                document.createElement("script"), {textContent: "window.reached = 1"}));
            document.body.insertAdjacentHTML(
                "beforeend", "<img src=x onerror='window.reached = 2'>");
        }"""
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.reached") is None
    assert any("Content Security Policy" in text for text in said)
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@both_sizes
def test_axe_finds_no_serious_violation(visit, violations, report, size, scheme):
    page = visit(report, size, color_scheme=scheme)
    page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
    assert violations(page, "main, header, nav, footer") == []


def test_dark_pages_have_light_text_and_light_arms(visit, report):
    page = visit(report, color_scheme="dark")
    colors = page.evaluate(
        """() => [getComputedStyle(document.body).backgroundColor,
                  getComputedStyle(document.querySelector("figure svg text")).fill,
                  getComputedStyle(
                      document.querySelectorAll(".arms .swatch")[2]).backgroundColor]"""
    )
    ground, ink, arm = ([int(n) for n in c.strip("rgb()").split(",")] for c in colors)
    assert sum(ink) - sum(ground) > 400
    assert arm != [1, 115, 178] and sum(arm) > 1 + 115 + 178
    keep(page, "report-dark", full_page=True)


def test_print_shows_what_is_folded_and_leaves_out_the_tools(visit, report):
    page = visit(report)
    page.emulate_media(media="print")
    assert not page.locator(".attcot-gallery").is_visible() and not page.locator("nav").is_visible()
    assert page.locator(".meanings p").first.is_visible()
    assert not page.locator("#explore iframe").first.is_visible()
    still = page.locator("#explore img.attcot-still").first
    assert still.is_visible() and still.bounding_box()["width"] > 200
    pdf = page.pdf()
    assert pdf.startswith(b"%PDF") and len(pdf) > 50_000
