"""The explorer in real JupyterLab: every control, by keyboard, down to the kernel and back."""

import time
from statistics import median

import pytest
from browser.pages import ASK, RUN_ALL, keep, watch
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CELLS = [
    """
from benchmarks.explorer import planted_record
from attcot_analysis.show.explorer.widget import Explorer
explorer = Explorer(planted_record(models=2))
explorer
""",
    """
record = planted_record(layers=28, heads=28, steps=10, step_tokens=30, rows=32, cols=32)
large = Explorer(record, twin=False)
large
""",
]


@pytest.fixture(scope="module")
def notebook(lab, browser):
    """The notebook, run; two explorers in it. What is logged or asked elsewhere is kept."""
    context = browser.new_context(viewport={"width": 1280, "height": 1500})
    page = context.new_page()
    page.set_default_timeout(60_000)
    trouble = watch(page)
    page.goto(lab.address("explorer.ipynb", CELLS))
    page.wait_for_selector(".jp-Notebook")
    assert page.evaluate(RUN_ALL) == []
    expect(page.locator(".attcot-explorer")).to_have_count(2)
    yield page
    context.close()
    assert trouble == []


@pytest.fixture
def explorer(notebook):
    """The first explorer, as it starts."""
    found = notebook.locator(".attcot-explorer").first
    start = "Step 1, mean over its 8 tokens, attention, mean of 4"
    # What the test before did last may still be on its way to the kernel, and arrive after this.
    for _ in range(5):
        ask(notebook, "explorer.select(token='step 1', layer=None, head=None, source='attention')")
        ask(notebook, "explorer.opacity = 0.65; explorer.one_scale = True")
        notebook.wait_for_timeout(200)
        if start in status(found).inner_text():
            break
    expect(status(found)).to_contain_text(start)
    return found


def ask(page, code: str) -> str:
    """Run code in the notebook's kernel and return what it prints."""
    return page.evaluate(ASK, code)


def tokens_of(explorer):
    return explorer.locator("[role=listbox] [role=option]")


def chosen(page) -> str:
    return ask(page, "s = explorer.selection; print(s.source, s.layer, s.head, s.token, s.unit)")


def expect_in_kernel(read, is_expected) -> None:
    """What the page sends is handled after what it shows: wait until the kernel has it."""
    for _ in range(100):
        value = read()
        if is_expected(value):
            return
        time.sleep(0.05)
    raise AssertionError(f"the kernel still has {value!r}")


def expect_chosen(page, selection: str) -> None:
    expect_in_kernel(lambda: chosen(page), lambda value: value == selection)


def status(explorer):
    return explorer.locator("[role=status]")


def pixels(explorer) -> list[str]:
    """What every pane shows."""
    return explorer.locator("canvas.ax-map").evaluate_all("all => all.map(one => one.toDataURL())")


def cursors(explorer) -> list[str]:
    """Where the cursors of the curves stand."""
    lines = explorer.locator(".ax-cursor line")
    return lines.evaluate_all("all => all.map(one => one.getAttribute('x1'))")


def wait_for_change(explorer, before: list[str]) -> list[str]:
    for _ in range(100):
        after = pixels(explorer)
        if after != before:
            return after
        explorer.page.wait_for_timeout(20)
    raise AssertionError("no picture changed")


@pytest.mark.parametrize(
    ("label", "key", "said", "selection"),
    [
        ("Layer", "ArrowRight", "maximum of 4 layers", "attention max mean 2 step"),
        ("Layer", "End", "layer 3", "attention 3 mean 2 step"),
        ("Head", "ArrowRight", "maximum of 4 heads", "attention mean max 2 step"),
        ("Head", "End", "head 3", "attention mean 3 2 step"),
    ],
)
def test_a_slider_moves_picture_words_and_kernel(notebook, explorer, label, key, said, selection):
    before = pixels(explorer)
    explorer.get_by_label(label, exact=True).press(key)
    expect(status(explorer)).to_contain_text(said)
    after = wait_for_change(explorer, before)
    assert after[0] == before[0], "the picture itself stays"
    assert all(one != other for one, other in zip(before[1:], after[1:], strict=True))
    expect_chosen(notebook, selection)


def test_visual_heads_only(notebook, explorer):
    head = explorer.get_by_label("Head", exact=True)
    head.press("ArrowRight")
    head.press("ArrowRight")
    expect(status(explorer)).to_contain_text("8 visual of 16 heads")
    explorer.get_by_label("Layer", exact=True).press("End")
    expect(status(explorer)).to_contain_text("layer 3, 2 visual of 4 heads")
    expect_chosen(notebook, "attention 3 visual 2 step")
    note = explorer.locator(".ax-note")
    expect(note).to_contain_text("Every other head.")
    # CoT-SFT is planted to say red when forced, Att-CoT to say blue, as the text states.
    expect(note).to_contain_text("The text states blue, but when forced to answer after its last")
    expect(note).to_contain_text("CoT-SFT says red")
    expect(note).not_to_contain_text("Att-CoT says")


def test_the_overlay_fades_the_maps(notebook, explorer):
    before = pixels(explorer)
    explorer.get_by_label("Overlay", exact=True).press("Home")
    after = wait_for_change(explorer, before)
    assert after[0] == after[1] == after[2], "without overlay every pane is the picture"
    expect_in_kernel(
        lambda: float(ask(notebook, "print(explorer.opacity)")), lambda value: value == 0
    )


def test_the_colour_scale_is_said(notebook, explorer):
    said = explorer.locator(".ax-scale")
    expect(said).to_contain_text("one scale for both models and all 3 steps")
    tokens_of(explorer).nth(4).click()
    expect(said).to_contain_text("one scale for both models and all 31 tokens")
    bar = explorer.locator(".ax-bar").first.inner_text()
    explorer.get_by_label("own", exact=True).check()
    expect(said).to_contain_text("this map's own scale, the same for both models")
    assert explorer.locator(".ax-bar").first.inner_text() != bar
    expect_in_kernel(
        lambda: ask(notebook, "print(explorer.one_scale)"), lambda value: value == "False"
    )


@pytest.mark.parametrize(
    ("source", "layered"),
    [("rollout", False), ("gradient_relevance", False)],
)
def test_the_source_switch(notebook, explorer, source, layered):
    before = pixels(explorer)
    explorer.get_by_label("Source", exact=True).select_option(source)
    wait_for_change(explorer, before)
    assert explorer.get_by_label("Layer", exact=True).is_enabled() == layered
    expect_in_kernel(lambda: chosen(notebook), lambda value: value.startswith(source))
    if source == "gradient_relevance":
        tokens_of(explorer).first.click()
        expect(status(explorer)).to_contain_text("sum over the picture CoT-SFT –")


def test_tokens_by_click_and_keyboard(notebook, explorer):
    tokens = tokens_of(explorer)
    before = pixels(explorer)
    explorer.get_by_role("group", name="step 2").get_by_role("option", name="arrow").click()
    expect(status(explorer)).to_contain_text('Token 13 "arrow" (step 2)')
    after = wait_for_change(explorer, before)
    expect_chosen(notebook, "attention mean mean 13 token")
    cursor = cursors(explorer)
    notebook.keyboard.press("ArrowRight")
    expect(tokens.nth(14)).to_be_focused()
    expect(tokens.nth(14)).to_have_attribute("aria-selected", "true")
    expect(tokens.nth(13)).to_have_attribute("aria-selected", "false")
    wait_for_change(explorer, after)
    moved = cursors(explorer)
    assert len(moved) == 2 and moved[0] == moved[1] and moved != cursor, "one axis for both curves"
    jumps = {"ArrowDown": 18, "ArrowUp": 10, "PageUp": 2, "End": 30, "Home": 0}
    for key, token in jumps.items():
        notebook.keyboard.press(key)
        expect(tokens.nth(token)).to_be_focused()
    expect_chosen(notebook, "attention mean mean 0 token")


def test_the_readout_says_what_the_kernel_says(notebook, explorer):
    explorer.get_by_role("group", name="step 2").get_by_role("option", name="arrow").click()
    explorer.get_by_label("Layer", exact=True).press("End")
    expect(status(explorer)).to_contain_text("layer 3")
    expect_chosen(notebook, "attention 3 mean 13 token")
    numbers = ask(
        notebook,
        "from attcot_analysis.show.style import format_number as say\n"
        "print(*(say(v) for r in explorer.readings for v in (r.mass, r.evidence, r.spread)))",
    ).split()
    rows = explorer.locator(".ax-readout tbody tr")
    for row, at in ((0, 0), (2, 1), (3, 2)):
        cells = rows.nth(row).locator("td").all_inner_texts()
        assert cells[0].split()[0] == numbers[at] and cells[1].split()[0] == numbers[3 + at]
        assert float(cells[2].replace("−", "-")) == pytest.approx(
            float(numbers[3 + at]) - float(numbers[at]), abs=0.11
        )


def test_what_it_would_answer_follows_the_text(explorer):
    table = explorer.locator(".ax-forced")
    expect(table).to_contain_text("If it had to answer before any step")
    explorer.get_by_role("group", name="step 3").get_by_role("option", name="arrow").click()
    expect(table).to_contain_text("If it had to answer after step 2")
    first = table.locator("tbody tr").first
    expect(first).to_contain_text("red (habitual)")
    expect(first.locator("td").nth(0)).to_have_text("0.90")
    tokens_of(explorer).nth(29).click()
    expect(table).to_contain_text("named in the text")


def test_a_curve_is_a_way_through_the_text_too(notebook, explorer):
    for curve in explorer.locator("svg.ax-chart").all():
        box = curve.bounding_box()
        curve.click(position={"x": box["width"] * 0.5, "y": 30})
        expect_in_kernel(lambda: int(chosen(notebook).split()[3]), lambda token: 13 <= token <= 17)
        tokens_of(explorer).first.click()


def test_a_head_is_picked_from_the_grid_of_heads(notebook, explorer):
    grid = explorer.locator("canvas.ax-heads:visible").first
    box = grid.bounding_box()
    grid.click(position={"x": box["width"] * 0.9, "y": box["height"] * 0.4})
    expect(status(explorer)).to_contain_text("layer 1, head 3")
    expect_chosen(notebook, "attention 1 3 2 step")


def test_single_image_tokens_are_read_by_pointer_and_keyboard(explorer):
    readout = explorer.locator(".ax-readout")
    explorer.locator("canvas.ax-map").nth(1).hover(position={"x": 5, "y": 5})
    expect(readout).to_contain_text("row 0, column 0")
    explorer.get_by_role("group", name="Maps").focus()
    explorer.page.keyboard.press("ArrowRight")
    explorer.page.keyboard.press("ArrowRight")
    expect(readout.locator("tbody tr")).to_have_count(5)


def test_play_moves_on_and_stops(notebook, explorer):
    tokens_of(explorer).first.click()
    explorer.get_by_role("button", name="Play").click()
    expect(status(explorer)).to_have_attribute("aria-live", "off")
    expect(tokens_of(explorer).first).to_have_attribute("aria-selected", "false")
    explorer.get_by_role("button", name="Pause").click()
    expect(explorer.get_by_role("button", name="Play")).to_be_visible()
    notebook.wait_for_timeout(300)
    token = chosen(notebook)
    notebook.wait_for_timeout(600)
    assert chosen(notebook) == token
    expect(status(explorer)).to_have_attribute("aria-live", "polite")
    explorer.get_by_label("through").select_option("layers")
    explorer.get_by_role("button", name="Play").click()
    expect(status(explorer)).to_contain_text("layer 1")
    notebook.keyboard.press("Escape")
    expect(explorer.get_by_role("button", name="Play")).to_be_visible()
    explorer.get_by_label("through").select_option("tokens")


def test_the_kernel_moves_the_page(notebook, explorer):
    before = pixels(explorer)
    ask(notebook, "explorer.select(token='answer', layer=2, head='visual')")
    expect(status(explorer)).to_contain_text('Token 29 "blue" (answer), attention, layer 2')
    wait_for_change(explorer, before)
    layer = explorer.get_by_label("Layer", exact=True)
    expect(layer).to_have_attribute("aria-valuetext", "layer 2")


def test_lab_does_not_act_on_the_explorers_keys(notebook, explorer):
    cells = notebook.locator(".jp-CodeCell")
    count = cells.count()
    tokens_of(explorer).nth(2).click()
    for key in ("x", "d", "d", "a", "ArrowDown", "Home"):
        notebook.keyboard.press(key)
    assert cells.count() == count
    expect(tokens_of(explorer).nth(0)).to_be_focused()


def test_it_looks_as_it_should(notebook, explorer):
    expect(explorer.locator(".ax-panes")).to_have_css("display", "grid")
    assert len({pane.bounding_box()["y"] for pane in explorer.locator("canvas.ax-map").all()}) == 1
    explorer.scroll_into_view_if_needed()
    keep(notebook, "explorer_lab")


def test_axe_finds_nothing_serious(notebook, explorer, violations):
    assert violations(notebook, ".attcot-explorer") == []


def test_the_dark_theme_is_readable_too(notebook, explorer, violations):
    theme = "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})"
    notebook.evaluate(theme, "JupyterLab Dark")
    try:
        expect(notebook.locator("body")).to_have_attribute("data-jp-theme-light", "false")
        notebook.wait_for_timeout(300)
        keep(notebook, "explorer_lab_dark")
        assert violations(notebook, ".attcot-explorer") == []
    finally:
        notebook.evaluate(theme, "JupyterLab Light")


LATENCY = """(element) => {
  const canvas = element.querySelectorAll('canvas.ax-map')[1];
  let start = 0;
  window.latencies = [];
  element.addEventListener('keydown', event => { start = event.timeStamp; }, {capture: true});
  // The label is written right after the map has been painted.
  new MutationObserver(() => window.latencies.push(performance.now() - start))
    .observe(canvas, {attributeFilter: ['aria-label']});
}"""


@pytest.mark.parametrize("which", ["small", "large"])
def test_a_key_press_changes_the_picture_within_30_ms(notebook, explorer, which):
    """From the key event to the painted map: the median of fifteen presses.

    On a machine that is busy with other tests a round may be slow, so there are up to ten.
    """
    shown = explorer if which == "small" else notebook.locator(".attcot-explorer").nth(1)
    shown.scroll_into_view_if_needed()
    tokens_of(shown).nth(1).click()
    shown.evaluate(LATENCY)
    medians = []
    for attempt in range(10):
        notebook.evaluate("window.latencies.length = 0")
        before = pixels(shown)
        for _ in range(15):
            notebook.keyboard.press("ArrowLeft" if attempt % 2 else "ArrowRight")
            notebook.wait_for_timeout(30)
        found = notebook.evaluate("window.latencies")
        assert len(found) >= 13 and pixels(shown) != before
        medians.append(median(found))
        if medians[-1] <= 30:
            break
    assert min(medians) <= 30


def test_a_large_record_comes_reduced_and_in_full_on_demand(notebook, explorer):
    large = notebook.locator(".attcot-explorer").nth(1)
    large.scroll_into_view_if_needed()
    note = large.locator(".ax-note")
    expect(note).to_contain_text("28 layers × 28 heads × 307 tokens × 32×32")
    expect(note).to_contain_text("Sent coarser")
    expect(note).to_contain_text("fetched from the kernel in full")
    assert int(ask(notebook, "print(len(large.data))")) <= 8_000_000
    large.get_by_label("Layer", exact=True).press("End")
    large.get_by_label("Head", exact=True).press("End")
    said = status(large)
    expect(said).to_contain_text("layer 27, head 27")
    expect(said).not_to_contain_text("fetching")
    expect(said).not_to_contain_text("coarse")
    # The full map of this head, as the kernel has it.
    numbers = ask(notebook, "print(*(f'{r.mass:.3f}' for r in large.readings))").split()
    assert (
        large.locator(".ax-readout tbody tr").first.locator("td").all_inner_texts()[:2] == numbers
    )
    notebook.mouse.move(0, 0)
    keep(notebook, "explorer_large_lab")
