"""The first section of a report in headless chromium: read, followed to an item, on a phone."""

import pytest
from browser.pages import SIZES, keep
from playwright.sync_api import expect
from reports.planted import planted_problems, planted_run, planted_tables
from show.samples import HOSTILE

from attcot_analysis.show.report.arms import does_cot_hurt
from attcot_analysis.show.report.compare import report_run

pytestmark = pytest.mark.browser

both_sizes = pytest.mark.parametrize("size", list(SIZES))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A page of a run whose hurt items alone were decided early, and the result."""
    problems = planted_problems(60)
    tables = planted_tables(
        problems,
        sizes=(15, 6, 24, 15),
        early=lambda group, rng: group == "hurt",
        text=f"look{HOSTILE}",
    )
    run = planted_run(tmp_path_factory.mktemp("planted") / "run", problems, tables)
    return report_run(run, examples=0), does_cot_hurt(run)


@both_sizes
def test_the_answer_is_on_the_first_screen_and_nothing_scrolls_sideways(visit, planted, size):
    page = visit(planted[0], size)
    headline, why = (page.locator(f"#hurt .{name}").first for name in ("headline", "lead"))
    assert headline.inner_text() == planted[1].headline
    assert (
        why.inner_text() == planted[1].why and "decided before the first step: 15" in planted[1].why
    )
    box = why.bounding_box()
    assert box["y"] + box["height"] < SIZES[size][1]
    page.locator("#hurt details").evaluate_all("all => all.forEach(one => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    keep(page.locator("#hurt"), f"hurt-{size}")
    # Wide, what was found stands beside why, and the contents stay; narrow, no table needs a push.
    wide = size == "wide"
    found, why = (one.bounding_box() for one in page.locator("#hurt .found > div").all())
    assert (why["y"] == found["y"] and why["x"] > found["x"] + 300) == wide
    assert why["x"] + why["width"] > SIZES[size][0] - 60
    page.locator("#limits").scroll_into_view_if_needed()
    expect(page.locator("nav summary")).to_be_in_viewport()
    expect(page.get_by_role("link", name="Metrics by arm")).to_be_visible(visible=wide)
    overflow = "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).length"
    assert (
        wide
        or page.locator("#hurt .scroll:not(.wide), #metrics .scroll:not(.wide)").evaluate_all(
            overflow
        )
        == 0
    )


def test_a_link_opens_the_item_that_it_names(visit, planted):
    page = visit(planted[0])
    hurt = planted[1].items("hurt")
    page.locator("#hurt .links a", has_text=hurt[2]).click()
    shown = page.locator("article.item:visible")
    expect(shown).to_have_count(1)
    assert hurt[2] in shown.locator("h3").inner_text()
    assert "Chosen because CoT hurt" in shown.locator(".note").first.inner_text()
    page.get_by_label("Show", exact=True).select_option(label="CoT helped (6)")
    strip = page.get_by_role("listbox", name="Items").get_by_role("option")
    expect(strip).to_have_count(6)
    strip.first.click()
    assert planted[1].items("helped")[0] in shown.locator("h3").inner_text()
    # Sorted by a metric, the item at its worse end comes first.
    page.get_by_label("Show", exact=True).select_option(index=0)
    metric = "p(final answer) before the first step"
    page.get_by_label("Sort", exact=True).select_option(label=f"{metric} (highest first)")
    said = strip.locator("small").all_inner_texts()
    values = [float(one.removeprefix(f"{metric}: ").partition(",")[0]) for one in said]
    assert len(set(values)) > 1 and values == sorted(values, reverse=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@both_sizes
def test_axe_finds_no_serious_violation(visit, violations, planted, size, scheme):
    page = visit(planted[0], size, color_scheme=scheme)
    page.locator("#hurt details").evaluate_all("all => all.forEach(one => { one.open = true; })")
    assert violations(page, "#hurt") == []
