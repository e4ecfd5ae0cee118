"""The report in headless chromium: everything visible, nothing leaves the page."""

import pytest

pytestmark = pytest.mark.browser

SIZES = [(1280, 900), (390, 844)]


@pytest.fixture
def visit(browser):
    """Open a file and return its page; afterwards nothing may have been requested or logged."""
    opened = []

    def go(path, size=SIZES[0], scheme="light"):
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
        )
        page = context.new_page()
        seen = {"requests": [], "trouble": []}
        page.on("request", lambda request: seen["requests"].append(request.url))
        page.on("pageerror", lambda error: seen["trouble"].append(str(error)))
        page.on("console", lambda message: seen["trouble"].append(message.text))
        page.on("dialog", lambda dialog: seen["trouble"].append(f"dialog {dialog.message}"))
        page.goto(path.as_uri())
        opened.append((context, path.as_uri(), seen))
        return page

    yield go
    for context, url, seen in opened:
        context.close()
        outside = [one for one in seen["requests"] if one != url and not one.startswith("data:")]
        assert outside == []
        assert seen["trouble"] == []


@pytest.mark.parametrize("size", SIZES, ids=["wide", "narrow"])
def test_every_section_and_figure_is_visible(visit, report, size):
    page = visit(report, size)
    for name in ("answer", "curves", "metrics", "comparisons", "heatmaps", "items", "meaning"):
        section = page.locator(f"section#{name}")
        assert section.is_visible()
        assert section.bounding_box()["height"] > 100
    for figure in page.locator("figure svg").all():
        box = figure.bounding_box()
        assert box["width"] > 200 and box["height"] > 150
        assert figure.locator("text").count() > 3, "labels are text"
    assert page.locator("figure svg").count() == 6
    pictures = page.locator("img").all()
    assert len(pictures) == 6
    for picture in pictures:
        assert picture.evaluate("i => i.complete && i.naturalWidth > 0")
        assert picture.bounding_box()["width"] > 150
        assert picture.get_attribute("alt")
    maps = [one.bounding_box() for one in page.locator("#heatmaps image").all()]
    assert sum(box["width"] > 40 and box["height"] > 40 for box in maps) == 9


@pytest.mark.parametrize("size", SIZES, ids=["wide", "narrow"])
def test_the_page_never_scrolls_sideways(visit, report, hostile_report, size):
    for path in (report, hostile_report):
        page = visit(path, size)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= size[0]


def test_hostile_text_is_shown_as_text(visit, hostile_report):
    page = visit(hostile_report)
    assert "<script>alert(1)</script>" in page.locator("h1").inner_text()
    assert "<script>alert(1)</script>" in page.locator("#items h3").first.inner_text()
    assert "<script>alert(1)</script>" in page.locator("#items pre").nth(1).inner_text()
    assert "<script>alert(1)</script>" in page.locator(".arms").inner_text()
    assert "<script>" in page.locator("#metrics svg").text_content()
    assert "<script>" in page.locator("#heatmaps svg").text_content()
    assert page.locator("script").count() == 0
    assert page.locator("img[src=x]").count() == 0


def test_a_wide_figure_takes_the_whole_width(visit, report):
    page = visit(report)
    boxes = [one.bounding_box() for one in page.locator("#curves figure").all()]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"]
    assert boxes[2]["width"] > boxes[0]["width"] + boxes[1]["width"]


def test_axes_show_one_curve_per_arm_with_its_colour(visit, report):
    page = visit(report)
    drawn = page.locator("#curves svg").first.inner_html()
    for color in ("#7b8794", "#d55e00", "#0173b2"):
        assert color in drawn


def test_dark_pages_have_light_text(visit, report):
    page = visit(report, scheme="dark")
    colors = page.evaluate(
        """() => [getComputedStyle(document.body).backgroundColor,
                  getComputedStyle(document.querySelector('figure svg text')).fill]"""
    )
    ground, ink = ([int(n) for n in c.strip("rgb()").split(",")] for c in colors)
    assert sum(ink) - sum(ground) > 400


def test_links_lead_to_their_metric_and_responses_open_by_keyboard(visit, report):
    page = visit(report)
    page.locator("#metrics table a").first.click()
    assert page.evaluate("location.hash") == "#metric-accuracy_cot".replace("_", "-")
    closed = page.locator("details:not([open]) summary").first
    closed.focus()
    before = page.locator("details[open]").count()
    page.keyboard.press("Enter")
    assert page.locator("details[open]").count() == before + 1
