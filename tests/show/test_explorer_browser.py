"""The explorer in real JupyterLab: it draws, and its sliders redraw."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CELL = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from show import samples
from attcot_analysis.models import TokenGrid
from attcot_analysis.show.explorer import attention_explorer

problem = samples.make_problem()
grid = TokenGrid.regular((96, 96), 6, 6)
explorer = attention_explorer(
    problem.image, samples.make_maps(0), grid, ["1", ".", "<b>bold</b>", " c2", " red", "!"],
    compare=(samples.make_maps(4), "Att-CoT"), label="CoT-SFT",
)
explorer
"""

RUN_ALL = """async () => {
  const app = window.jupyterapp; await app.restored;
  const panel = app.shell.currentWidget;
  await panel.context.ready; await panel.sessionContext.ready;
  await panel.sessionContext.session.kernel.info;
  await app.commands.execute('notebook:run-all-cells');
  return panel.content.widgets.filter(cell => cell.model.type === 'code')
    .flatMap(cell => cell.model.sharedModel.outputs)
    .filter(output => output.output_type === 'error').map(output => output.evalue);
}"""


@pytest.fixture
def lab(tmp_path):
    """A JupyterLab on the loopback with one notebook in it; the notebook's address."""
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(CELL)],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(notebook, tmp_path / "demo.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        f"JUPYTER{name}": str(tmp_path / f".{name.lower()}")
        for name in ("_CONFIG_DIR", "LAB_SETTINGS_DIR", "LAB_WORKSPACES_DIR", "_RUNTIME_DIR")
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    command += ["--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True"]
    command += ["--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={tmp_path}"]
    with (tmp_path / "lab.log").open("w") as log:
        server = subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=log)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status", timeout=1)
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "lab.log").read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/doc/tree/demo.ipynb?reset"
    finally:
        server.terminate()
        server.wait(30)


def test_sliders_redraw_the_pictures(lab, browser):
    from playwright.sync_api import expect

    context = browser.new_context(viewport={"width": 1280, "height": 1200})
    page = context.new_page()
    page.set_default_timeout(120_000)
    foreign, errors = [], []
    page.on(
        "request",
        lambda request: (
            foreign.append(request.url)
            if request.url.startswith("http") and "127.0.0.1" not in request.url
            else None
        ),
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(lab)
    page.wait_for_selector(".jp-Notebook")
    assert page.evaluate(RUN_ALL) == []

    pictures = page.locator("img.widget-image")
    expect(pictures).to_have_count(3)
    handles = page.locator(".widget-hslider .noUi-handle")
    readout = page.locator("[role=status] caption")
    expect(readout).to_have_text("layer mean, head mean, token 0 (1)")
    for number, text in enumerate(
        [
            "layer 0, head mean, token 0 (1)",
            "layer 0, head 0, token 0 (1)",
            "layer 0, head 0, token 1 (.)",
        ]
    ):
        before = pictures.nth(0).get_attribute("src")
        handles.nth(number).focus()
        handles.nth(number).press("ArrowRight")
        expect(readout).to_have_text(text)
        expect(pictures.nth(0)).not_to_have_attribute("src", before)
        assert pictures.nth(0).evaluate("i => i.decode().then(() => i.naturalWidth)") > 0
    handles.nth(2).press("ArrowRight")
    expect(readout).to_have_text("layer 0, head 0, token 2 (<b>bold</b>)")
    assert foreign == [] and errors == []
    context.close()
