"""The explorer without a kernel: offline page, nbconvert's page, stripped pages; access to it."""

import numpy as np
import pytest
from browser.pages import DIFFERS, SIZES, check_both_looks, keep, thumbnail, unlike
from playwright.sync_api import expect

from attcot_analysis.show.explorer.page import explorer_fragment, explorer_page
from attcot_analysis.show.explorer.planes import plane_weights
from attcot_analysis.show.explorer.record import PlaneKey, select
from attcot_analysis.show.heatmaps import overlay
from attcot_analysis.show.style import DIVERGING, OVERLAY
from benchmarks.explorer import planted_record

pytestmark = pytest.mark.browser

HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>-->\u2028&lt;b&gt;"
)
KNOBS = {"one": {"models": 1}, "two": {"models": 2}, "three": {"models": 3}}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Explorers of one, two and three models, and one whose texts are hostile."""
    folder = tmp_path_factory.mktemp("pages")
    knobs = {**KNOBS, "hostile": {"models": 2, "text": HOSTILE}}
    for name, given in knobs.items():
        page = explorer_page(planted_record(**given))
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """A notebook with an explorer's stored output, as nbconvert writes it."""
    import nbformat
    from nbconvert import HTMLExporter

    from attcot_analysis.show.explorer.widget import Explorer

    data, _ = Explorer(planted_record(models=2))._repr_mimebundle_()
    output = nbformat.v4.new_output("display_data", data=data)
    cell = nbformat.v4.new_code_cell("explorer", execution_count=1, outputs=[output])
    made = nbformat.v4.new_notebook(cells=[cell])
    # Its own libraries would be loaded from elsewhere; nothing here needs them.
    exporter = HTMLExporter(require_js_url="", mathjax_url="", jquery_url="", mermaid_js_url="")
    html, _ = exporter.from_notebook_node(made)
    path = tmp_path_factory.mktemp("notebook") / "notebook.html"
    path.write_text(html, encoding="utf-8")
    return path


def pixels(page) -> list[str]:
    return page.locator("canvas.ax-map").evaluate_all("all => all.map(one => one.toDataURL())")


def ready(page):
    page.wait_for_selector("#explorer[data-ready]")
    # The picture is decoded a little later.
    page.wait_for_function(
        "() => { const c = document.querySelector('canvas.ax-map');"
        "return c.getContext('2d').getImageData(40, 200, 1, 1).data[3] > 0; }"
    )
    return page


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", KNOBS)
def test_the_page_works_offline(visit, pages, name, size):
    page = ready(visit(pages / f"{name}.html", size, offline=True))
    keep(page, f"explorer_{name}_{size}", full_page=True)
    if name != "three":
        check_both_looks(page, f"explorer_{name}_{size}")
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    maps = page.locator("canvas.ax-map")
    expect(maps).to_have_count(2 if name == "one" else 4)
    assert all(box["width"] > 120 for box in (one.bounding_box() for one in maps.all()))
    said = page.get_by_role("status")
    for label, words in (("Layer", "layer 3"), ("Head", "head 3")):
        before = pixels(page)
        page.get_by_label(label, exact=True).press("End")
        expect(said).to_contain_text(words)
        assert pixels(page)[1] != before[1]
    before = pixels(page)
    page.get_by_role("listbox").get_by_role("option").nth(20).click()
    expect(said).to_contain_text("Token 20")
    assert pixels(page)[1] != before[1]


def test_colours_are_those_of_the_weights(visit, tmp_path):
    """Every cell of every pane against what Python paints of the full weights."""
    record = planted_record(models=2, rows=5, cols=8)
    chosen = select(record, token="answer", layer=2, head="visual")
    path = tmp_path / "page.html"
    look = {"opacity": 1.0, "one_scale": False}
    path.write_text(explorer_page(record, chosen, look=look), encoding="utf-8")
    page = ready(visit(path))
    page.get_by_label("evidence box", exact=True).uncheck()
    keys = [PlaneKey("attention", model, 2, "visual") for model in range(2)]
    maps = [plane_weights(record, key)[chosen.token].reshape(5, 8) for key in keys]
    top, change = max(one.max() for one in maps), maps[1] - maps[0]
    limit = np.abs(change).max()
    scales = [(one, 0.0, top, OVERLAY) for one in maps] + [(change, -limit, limit, DIVERGING)]
    expected = [
        np.asarray(overlay(record.picture, one, low=low, high=high, cmap=cmap, opacity=1, side=448))
        for one, low, high, cmap in scales
    ]
    panes = page.locator("canvas.ax-map").all()[1:]
    for pane, colours in zip(panes, expected, strict=True):
        drawn = pane.evaluate(
            """(one, [rows, cols]) => Array.from({length: rows * cols}, (_, at) => [...one
              .getContext('2d').getImageData(
                (at % cols + 0.5) * one.width / cols,
                (Math.floor(at / cols) + 0.5) * one.height / rows, 1, 1).data].slice(0, 3))""",
            [5, 8],
        )
        high, wide, _ = colours.shape
        centres = (np.arange(5) + 0.5) * high / 5, (np.arange(8) + 0.5) * wide / 8
        cells = colours[np.ix_(*(one.astype(int) for one in centres))].astype(int)
        # Quantising moves a colour by a step or two of its map.
        assert np.abs(np.reshape(drawn, (5, 8, 3)) - cells).max() <= 12


@pytest.mark.parametrize(
    "planted",
    [
        ".ax-panes { display: none }",
        ".ax-top { display: block !important }",
        ".ax-map { filter: invert(1) }",
        ".attcot-explorer { font-size: 40px }",
    ],
)
def test_a_planted_break_of_the_look_is_seen(visit, pages, planted):
    page = ready(visit(pages / "one.html", bypass_csp=True))
    before = thumbnail(page)
    page.add_style_tag(content="* { font-family: 'Liberation Sans', sans-serif !important }")
    assert unlike(thumbnail(page), before) < DIFFERS / 2
    page.add_style_tag(content=planted)
    assert unlike(thumbnail(page), before) > DIFFERS


def test_picture_and_text_are_seen_together_of_a_portrait_too(visit, tmp_path):
    record = planted_record(models=1, rows=12, cols=6)
    path = tmp_path / "portrait.html"
    path.write_text(explorer_page(record), encoding="utf-8")
    page = ready(visit(path))
    maps = [one.bounding_box() for one in page.locator("canvas.ax-map").all()]
    last = page.locator(".ax-token").last.bounding_box()
    assert all(200 < box["height"] <= 0.4 * 900 for box in maps)
    assert last["y"] + last["height"] < 900


def test_two_minutes_by_keyboard_alone(visit, pages):
    """Open, find where it looked at step 2, when it decided, and what another token changes."""
    page = ready(visit(pages / "one.html"))
    page.mouse.move(0, 0)
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.ax-token')"):
            break
    said = page.get_by_role("status")
    page.keyboard.press("Home")
    for _ in range(2):
        page.keyboard.press("ArrowDown")
    expect(said).to_contain_text("(step 2)")
    expect(page.locator(".ax-readout")).to_contain_text("strongest patch")
    forced = page.locator(".ax-forced")
    expect(forced).to_contain_text("If it had to answer after step 1")
    page.keyboard.press("p")
    page.keyboard.press("End")
    expect(forced).to_contain_text("If it had to answer after step 3")
    expect(page.locator(".ax-readout")).to_contain_text("(pinned)")
    for _ in range(40):
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.matches('.ax-frame')"):
            break
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+ArrowRight")
    expect(page.locator(".ax-hint")).to_contain_text("columns")
    page.keyboard.press("Escape")
    expect(page.locator(".ax-hint")).to_contain_text("bars show how much")


def test_with_three_models_any_two_are_compared(visit, pages):
    page = ready(visit(pages / "three.html"))
    before = pixels(page)
    page.get_by_label("right model").select_option("Base")
    after = pixels(page)
    assert after[1] == before[1] and after[2] != before[2] and after[3] != before[3]
    expect(page.locator("figcaption", has_text="Base − CoT-SFT")).to_be_visible()
    expect(page.locator(".ax-readout thead")).to_contain_text("Base")


def test_the_same_map_on_both_sides_differs_nowhere(visit, pages):
    page = ready(visit(pages / "three.html"))
    page.get_by_label("right model").select_option("CoT-SFT")
    expect(page.locator(".ax-bar").nth(1)).to_have_text("00difference")
    expect(page.locator(".ax-readout tbody tr").first.locator("td").nth(2)).to_have_text("0.000")


def test_hostile_text_stays_text(visit, pages, tmp_path):
    page = ready(visit(pages / "hostile.html"))
    assert page.title() != "owned"
    assert page.locator("#explorer script, #explorer img").count() == 0
    page.locator("summary").click()
    shown = HOSTILE.replace("\u2028", " ")
    for part in (".ax-question", ".ax-own", ".ax-forced", "[role=listbox]", "figcaption"):
        text = page.locator(part).all_inner_texts()
        assert any(shown[:30] in one for one in text), part
    page.get_by_role("listbox").get_by_role("option").nth(28).click()
    expect(page.get_by_role("status")).to_contain_text("</script><script>document.title")
    # The same inside a frame's attribute.
    path = tmp_path / "frame.html"
    fragment = explorer_fragment(planted_record(models=2, text=HOSTILE))
    path.write_text(f"<!doctype html><title>frame</title>{fragment}", encoding="utf-8")
    framed = visit(path)
    frame = framed.frame_locator("iframe")
    expect(frame.locator(".ax-question")).to_contain_text("</script><script>document.title")
    assert framed.title() == "frame"


def test_the_policy_runs_no_other_script(browser, pages, tmp_path):
    planted = tmp_path / "planted.html"
    text = (pages / "one.html").read_text(encoding="utf-8")
    extra = (
        "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">"
    )
    assert text.count("<noscript>") == 1
    planted.write_text(text.replace("<noscript>", f"{extra}<noscript>"), encoding="utf-8")
    page = browser.new_context().new_page()
    page.goto(planted.as_uri())
    ready(page)
    assert page.title() != "owned"
    page.context.close()


def test_nbconvert_page_has_working_sliders(visit, notebook):
    page = visit(notebook, offline=True)
    frame = page.frame_locator("iframe")
    said = frame.get_by_role("status")
    expect(said).to_contain_text("Step 1, mean over its 8 tokens")
    maps = frame.locator("canvas.ax-map")
    before = maps.nth(1).evaluate("one => one.toDataURL()")
    frame.get_by_label("Layer", exact=True).press("End")
    expect(said).to_contain_text("layer 3")
    assert maps.nth(1).evaluate("one => one.toDataURL()") != before
    # As high as it needs to be, in place of the still picture.
    box = page.locator("iframe").bounding_box()
    assert frame.locator("body").evaluate("one => one.scrollHeight") <= box["height"] + 1
    expect(page.locator("img.attcot-still")).to_be_hidden()
    keep(page, "explorer_nbconvert", full_page=True)


def test_without_script_there_is_the_still_picture(visit, notebook):
    page = visit(notebook, java_script_enabled=False, offline=True)
    still = page.locator("img.attcot-still")
    expect(still).to_be_visible()
    assert still.bounding_box()["width"] > 400
    assert page.locator("iframe").bounding_box()["height"] < 2
    keep(page, "explorer_no_script")


def test_in_print_there_is_the_still_picture(visit, notebook):
    page = visit(notebook, offline=True)
    expect(page.frame_locator("iframe").get_by_role("status")).to_contain_text("Step 1")
    page.emulate_media(media="print")
    expect(page.locator("img.attcot-still")).to_be_visible()
    expect(page.locator("iframe")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", KNOBS)
def test_axe_finds_nothing_serious(visit, pages, violations, name, scheme):
    page = ready(visit(pages / f"{name}.html", color_scheme=scheme, bypass_csp=True))
    assert violations(page) == []
    page.get_by_role("listbox").get_by_role("option").nth(20).click()
    page.get_by_label("Source", exact=True).select_option("rollout")
    page.locator("summary").click()
    assert violations(page) == []


def test_axe_finds_a_planted_fault(visit, pages, violations):
    page = ready(visit(pages / "one.html", bypass_csp=True))
    page.locator("label[for$=-Layer]").evaluate("one => one.remove()")
    assert any("label" in one for one in violations(page))


def test_the_keyboard_reaches_everything_and_its_place_is_seen(visit, pages):
    page = ready(visit(pages / "three.html"))
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => {
              const one = document.activeElement;
              if (!one || one === document.body) return null;
              const style = getComputedStyle(one);
              const seen = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
              const label = one.labels?.[0]?.textContent ?? one.getAttribute('aria-label')
                ?? one.textContent;
              return [label.trim(), seen];
            }"""
        )
        if found is None:
            break
        reached.append(found)
    names = [name for name, _ in reached]
    assert [name for name, seen in reached if not seen] == []
    wanted = ["What each writes by itself", "left model", "right model", "Source", "Layer", "Head"]
    wanted += ["Overlay", "step", "shared", "Shown as", "evidence box"]
    wanted += [
        "▶ Play",
        "through",
        "Pin it, then select another",
        "PNG",
        "SVG",
        "1",
        "Along the text",
        "If forced to answer, p of",
    ]
    assert [name for name in wanted if name not in names] == []
    assert len(names) < 28, "the tokens are one stop, not one each"


def test_reduced_motion_plays_step_by_step(visit, pages):
    page = ready(visit(pages / "one.html", reduced_motion="reduce"))
    said = page.get_by_role("status")
    button = page.get_by_role("button", name="Step")
    button.click()
    expect(said).to_contain_text("Token 3")
    page.wait_for_timeout(700)
    expect(said).to_contain_text("Token 3")
    button.click()
    expect(said).to_contain_text("Token 4")


def test_colours_are_told_apart_without_red_and_green(pages):
    """Luminance alone orders the sequential map, and the diverging one away from its middle."""
    import base64
    import json
    import re

    import numpy as np

    text = (pages / "two.html").read_text(encoding="utf-8")
    state = json.loads(re.search(r'id="state">(.*?)</script>', text)[1])
    weights = np.array([0.2126, 0.7152, 0.0722])

    def luminance(name: str) -> np.ndarray:
        table = np.frombuffer(base64.b64decode(state["spec"]["colours"][name]), np.uint8)
        return (table.reshape(256, 3) / 255) ** 2.2 @ weights

    steps = np.diff(luminance("sequential"))
    assert (steps < 0.004).all() and luminance("sequential")[0] > 2 * luminance("sequential")[-1]
    diverging = luminance("diverging")
    assert diverging[120:136].min() > 0.8
    assert diverging[0] < 0.3 and diverging[-1] < 0.3


def test_a_selection_in_the_page_is_the_one_asked_for(visit, tmp_path):
    record = planted_record(models=1)
    path = tmp_path / "page.html"
    chosen = select(record, source="rollout", token="answer")
    path.write_text(explorer_page(record, chosen), encoding="utf-8")
    page = ready(visit(path))
    expect(page.get_by_role("status")).to_contain_text(
        'Token 29 "blue" (answer), attention rollout'
    )


def on_map(page, row: float, col: float) -> tuple[float, float]:
    """Where a cell of the first map of the planted 6 x 6 grid is on the screen."""
    box = page.locator("canvas.ax-map").nth(1).bounding_box()
    return box["x"] + (col + 0.5) * box["width"] / 6, box["y"] + (row + 0.5) * box["height"] / 6


def test_a_patch_names_the_tokens_that_look_at_it_and_a_box_its_share(visit, pages):
    page = ready(visit(pages / "one.html"))
    weights = plane_weights(planted_record(models=1), PlaneKey("attention", 0)).reshape(-1, 6, 6)
    page.mouse.click(*on_map(page, 2, 3))
    looked = np.argsort(-weights[:, 2, 3])[:3]
    hint = page.locator(".ax-hint")
    for token in looked:
        expect(hint).to_contain_text(f"(token {token}, ")
    shades = page.locator(".ax-token").evaluate_all(
        "all => all.map(one => parseFloat(one.style.getPropertyValue('--mass')))"
    )
    assert np.allclose(shades, weights[:, 2, 3] / weights[:, 2, 3].max(), atol=0.02)
    page.mouse.click(*on_map(page, 2, 3))
    expect(hint).to_contain_text("bars show how much")
    page.locator(".ax-token").nth(12).click()
    page.mouse.move(*on_map(page, 1, 1))
    page.mouse.down()
    page.mouse.move(*on_map(page, 3, 4), steps=3)
    page.mouse.up()
    share = 100 * weights[12, 1:4, 1:5].sum() / weights[12].sum()
    row = page.locator(".ax-readout tr", has_text="in rows 1–3, columns 1–4")
    expect(row).to_contain_text(f"({share:.0f} % of the map)")
    page.keyboard.press("Escape")
    expect(row).to_have_count(0)


def test_a_pinned_token_is_held_against_another_and_a_link_leads_there(visit, pages):
    page = ready(visit(f"{(pages / 'one.html').as_uri()}#token=4&layer=2&head=1"))
    said = page.get_by_role("status")
    expect(said).to_contain_text("layer 2, head 1")
    tokens = page.get_by_role("listbox").get_by_role("option")
    tokens.nth(4).press("p")
    tokens.nth(20).click()
    weights = plane_weights(planted_record(models=1), PlaneKey("attention", 0, 2, 1))
    change = weights[20].sum() - weights[4].sum()
    cells = page.locator(".ax-readout tbody tr").first.locator("td")
    expect(cells.nth(2)).to_have_text(f"{change:+.3f}".replace("-", "−"))
    expect(page.locator("canvas.ax-map:visible")).to_have_count(4)
    assert "token=20&unit=token&layer=2&head=1" in page.evaluate("location.hash")
    page.get_by_role("button", name="Unpin").click()
    expect(page.locator("canvas.ax-map:visible")).to_have_count(2)


def test_a_view_is_saved_with_its_numbers_and_a_stranger_s_text_stays_text(visit, pages, tmp_path):
    import xml.etree.ElementTree as ET

    from PIL import Image

    page = ready(visit(pages / "hostile.html"))
    for kind in ("SVG", "PNG"):
        with page.expect_download() as found:
            page.get_by_role("button", name=kind, exact=True).click()
        found.value.save_as(tmp_path / f"view.{kind}")
    svg = ET.parse(tmp_path / "view.SVG")
    tags = {one.tag.rpartition("}")[2] for one in svg.iter()}
    assert "image" in tags and not tags & {"script", "foreignObject", "a"}
    texts = " ".join(svg.getroot().itertext())
    reading = page.locator(".ax-readout tbody td").first.inner_text()
    assert reading in texts and HOSTILE[:30] in texts
    assert Image.open(tmp_path / "view.PNG").width == 1920
