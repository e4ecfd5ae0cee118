"""The studio as a person meets it: by keyboard alone, wide and narrow, light and dark; in a lab."""

import itertools
import threading

import pytest
from browser.pages import ASK, RUN_ALL, SIZES, check_both_looks, keep, watch
from playwright.sync_api import expect

from attcot_analysis.models import load_mllm
from attcot_analysis.shipped import TESTBED_B_MODEL, shipped
from attcot_analysis.show.studio.server import StudioServer
from attcot_analysis.show.studio.session import StudioSession

pytestmark = pytest.mark.browser

UP_TO_THE_STAR = ["ArrowUp", "ArrowUp", "ArrowUp", "ArrowLeft"]
OVER_IT = [" ", "ArrowRight", " ", "ArrowDown", " ", "ArrowLeft", " "]


@pytest.fixture(scope="module")
def mllm():
    return load_mllm(shipped(TESTBED_B_MODEL), dtype="float32", device="cpu")


@pytest.fixture
def server(mllm):
    made = StudioServer(StudioSession(mllm))
    thread = threading.Thread(target=made.serve, daemon=True)
    thread.start()
    yield made
    made.close()
    thread.join()


def opened(visit, server, size="wide", **options):
    page = visit(server.address, size, **options)
    page.wait_for_selector("body[data-ready]")
    return page


def tab_to(page, name):
    """Go on by Tab until something of that name has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        here = page.evaluate(
            """() => { const one = document.activeElement;
              return one.labels?.[0]?.textContent ?? one.getAttribute('aria-label')
                ?? one.textContent; }"""
        )
        if here.startswith(name):
            return
    raise AssertionError(f"Tab never reaches {name!r}")


def answered(page):
    expect(page.locator(".st-steps li")).to_have_count(5)
    return page.locator(".st-status")


@pytest.mark.parametrize(("size", "scheme"), [("wide", "dark"), ("narrow", "light")])
def test_two_minutes_by_keyboard_alone(visit, server, violations, size, scheme):
    page = opened(visit, server, size, color_scheme=scheme, bypass_csp=True)
    assert violations(page) == []
    tab_to(page, "Take an example")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Question")).to_have_value(
        "Felix asks: which way is it from the star to the triangle?"
    )
    # Ask, and watch words arrive.
    tab_to(page, "Question")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".st-token").nth(4)).to_be_visible()
    expect(page.locator(".st-caption")).to_contain_text("of its attention is on the picture")
    status = answered(page)
    expect(status).to_have_text("It answers: southeast.")
    # When had it made up its mind?
    tab_to(page, "Answer here, before any step")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("f")
    expect(status).to_have_text("Made to answer after step 2, it says: northwest.")
    expect(page.locator(".st-steps li").nth(2)).to_contain_text(
        "→ northwest (p of its final answer 0.00)"
    )
    # What did it look at, in the explorer below?
    tab_to(page, "1")
    page.keyboard.press("End")
    expect(page.locator(".ax-live")).to_contain_text("</answer>")
    # Hide the star, and ask again.
    page.locator(".st-stage").focus()
    for key in [*UP_TO_THE_STAR, *OVER_IT]:
        page.keyboard.press(key)
    expect(page.locator(".st-caption")).to_have_text("4 of 36 patches will be hidden.")
    page.keyboard.press("Enter")
    expect(status).to_have_text("With the region hidden it answers east instead of southeast.")
    expect(page.locator(".st-card strong")).to_have_text(["southeast", "east"])
    expect(page.locator("figcaption", has_text="edited − original")).to_be_visible()
    expect(page.locator(".ax-facts")).to_contain_text("edited answers")
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    assert violations(page) == []
    keep(page, f"studio_{size}", full_page=True)
    page.evaluate("scrollTo(0, 0)")
    check_both_looks(page, f"studio_{size}")


def test_one_s_own_picture_options_and_a_wrong_file(visit, server, tmp_path, mllm):
    from attcot_analysis.problems import load_problems
    from attcot_analysis.shipped import TESTBED_B_PROBLEMS

    problem = load_problems(shipped(TESTBED_B_PROBLEMS), limit=2)[1]
    problem.image.save(tmp_path / "mine.png")
    (tmp_path / "none.png").write_bytes(b"no picture")
    page = opened(visit, server)
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator(".st-status")).to_contain_text("no picture yet")
    page.locator("input[type=file]").set_input_files(tmp_path / "none.png")
    expect(page.locator(".st-status")).to_contain_text("is no picture")
    page.locator("input[type=file]").set_input_files(tmp_path / "mine.png")
    expect(page.locator(".st-full")).to_be_visible()
    page.get_by_label("Question").fill(f"<img src=x onerror=alert(1)> {problem.question}")
    page.get_by_label("Possible answers").fill(", ".join(problem.candidates))
    page.get_by_role("button", name="Ask", exact=True).click()
    answered(page)
    assert server.session.asked.problem.candidates == problem.candidates
    assert (server.session.asked.problem.image.tobytes()) == problem.image.tobytes()
    assert page.locator(".attcot-studio img[src=x]").count() == 0
    # Painted with the mouse: a row of patches, each once.
    box = page.locator(".st-stage canvas").bounding_box()
    at = [(box["x"] + box["width"] * (2 * n + 1) / 12, box["y"] + 10) for n in range(3)]
    page.mouse.move(*at[0])
    page.mouse.down()
    for place in at[1:]:
        page.mouse.move(*place)
    page.mouse.up()
    expect(page.locator(".st-caption")).to_have_text("3 of 36 patches will be hidden.")
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_role("button", name="Hide and ask again")).to_be_disabled()
    # Loaded again, the page still has picture and question.
    page.reload()
    expect(page.locator(".st-full")).to_be_visible()
    expect(page.get_by_label("Question")).to_have_value(
        f"<img src=x onerror=alert(1)> {problem.question}"
    )


@pytest.fixture
def held(mllm, server):
    """The model waits before its 17th token until it is told to stop, however fast it is."""
    passes = itertools.count()

    def wait(*_):
        if next(passes) == 16:
            server.session._stop.wait(60)

    handle = mllm.model.register_forward_pre_hook(wait)
    yield
    handle.remove()


def test_it_can_be_made_to_answer_while_it_writes(visit, server, held):
    page = opened(visit, server)
    page.get_by_role("button", name="Take an example").click()
    expect(page.locator(".st-full")).to_be_visible()
    page.get_by_role("button", name="Ask", exact=True).click()
    page.locator(".st-token").nth(13).wait_for()
    page.get_by_role("button", name="Answer now").click()
    expect(page.locator(".st-status")).to_contain_text("Made to answer after step")
    assert not server.session.asked.made.finished
    rows = page.locator(".st-steps li")
    # The step that was cut is marked; it answered after the last whole one.
    expect(rows.last).to_have_class("st-cut")
    expect(rows.nth(rows.count() - 2)).to_contain_text("→")


def test_a_server_that_is_gone_is_told(visit, server):
    page = opened(visit, server)
    page.evaluate("() => { window.fetch = () => Promise.reject(new Error('gone')); }")
    page.get_by_role("button", name="Take an example").click()
    expect(page.locator(".st-status")).to_have_text("Nothing answers; is the studio still running?")


@pytest.mark.long
def test_the_widget_in_a_lab(lab, browser):
    context = browser.new_context(viewport={"width": 1280, "height": 1500})
    page = context.new_page()
    page.set_default_timeout(60_000)
    trouble = watch(page)
    cell = """
import time
import attcot_analysis as ac
from attcot_analysis.shipped import TESTBED_B_MODEL, TESTBED_B_PROBLEMS, shipped
mllm = ac.load_mllm(shipped(TESTBED_B_MODEL), dtype="float32", device="cpu")
mllm.model.register_forward_pre_hook(lambda *_: time.sleep(0.15))  # else it is done at once
item = ac.load_problems(shipped(TESTBED_B_PROBLEMS), limit=1)[0]
studio = ac.studio(mllm, image=item.image, question=item.question)
studio
"""
    page.goto(lab.address("studio.ipynb", [cell]))
    page.wait_for_selector(".jp-Notebook")
    assert page.evaluate(RUN_ALL) == []
    expect(page.locator(".st-full")).to_be_visible()
    # Stop is heard while the kernel writes.
    page.get_by_label("Question").press("Control+Enter")
    page.locator(".st-token").nth(12).wait_for()
    page.get_by_role("button", name="Stop").click()
    status = page.locator(".st-status")
    expect(status).to_contain_text("Stopped after")
    # Plain keys stay in the studio: f does not open JupyterLab's search, nor does one delete cells.
    page.get_by_label("Answer here, after step 1").press("f")
    expect(status).to_contain_text("Made to answer after step 1")
    keep(page, "studio_lab")
    said = "print(studio, studio.session.asked.made.finished, studio.session.asked.look.record)"
    found = page.evaluate(ASK, said)
    assert found.startswith(
        "Studio(qwen2_5_vl-b0) False ExplorerRecord(qwen2_5_vl-b0: item picture"
    )
    expect(page.locator("canvas.ax-map")).to_have_count(2)
    context.close()
    assert trouble == []
