"""What browser tests share: what counts as trouble, and a JupyterLab to open notebooks in."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SCREENSHOTS = Path(__file__).parent / "screenshots"
SIZES = {"wide": (1280, 900), "narrow": (390, 844)}
AT_HOME = ("file:", "data:", "blob:", "about:", "http://127.0.0.1", "ws://127.0.0.1")


def watch(page: Any) -> list[str]:
    """A list that grows with every request that goes elsewhere, error and dialog of a page."""
    trouble: list[str] = []

    def dismiss(dialog: Any) -> None:
        trouble.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def asked(request: Any) -> None:
        if not request.url.startswith(AT_HOME):
            trouble.append(f"request {request.url}")

    def said(message: Any) -> None:
        if message.type == "error":
            trouble.append(f"console {message.text}")

    page.on("request", asked)
    page.on("console", said)
    page.on("pageerror", lambda error: trouble.append(f"error {error}"))
    page.on("dialog", dismiss)
    return trouble


def keep(target: Any, name: str, **options: Any) -> None:
    """Keep a picture of a page or of a part of it among the artefacts."""
    SCREENSHOTS.mkdir(exist_ok=True)
    target.screenshot(path=str(SCREENSHOTS / f"{name}.png"), **options)


LOOKS = Path(__file__).parent / "looks"
DIFFERS = 0.08
"""A share of unlike cells that is a break of the look; other fonts stay below it."""
_CELL = 32  # pixels: so coarse that fonts of another machine matter little


def thumbnail(page: Any) -> Image.Image:
    """What the window shows, as the mean colours of a coarse grid."""
    image = Image.open(BytesIO(page.screenshot())).convert("RGB")
    size = round(image.width / _CELL), round(image.height / _CELL)
    return image.resize(size, Image.Resampling.BOX)


def unlike(shown: Image.Image, kept: Image.Image) -> float:
    """The share of cells whose colour differs by more than a fifth of the range."""
    if shown.size != kept.size:
        return 1.0
    gap = np.abs(np.asarray(shown, int) - np.asarray(kept, int)).max(axis=-1)
    return float((gap > 51).mean())


def check_look(page: Any, name: str) -> None:
    """Compare what the window shows with the picture kept under this name.

    A picture that is not there is written, and the test fails: look at it, then keep it.
    """
    path, shown = LOOKS / f"{name}.png", thumbnail(page)
    if not path.exists():
        shown.save(path, optimize=True)
        raise AssertionError(f"{path} was not there; look at it and commit it")
    found = unlike(shown, Image.open(path).convert("RGB"))
    assert found < DIFFERS, f"{found:.0%} of {name} looks another way; delete {path} if it should"


def check_both_looks(page: Any, name: str) -> None:
    """Keep what the window shows light and dark, and compare it with the pictures of this name."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        keep(page, f"{name}_{scheme}")
        check_look(page, f"{name}_{scheme}")


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
ASK = """async (code) => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const asked = kernel.requestExecute({code});
  let said = '';
  asked.onIOPub = message => {
    if (message.header.msg_type === 'stream') said += message.content.text;
    if (message.header.msg_type === 'error') said += message.content.evalue;
  };
  await asked.done;
  return said.trim();
}"""


class Lab:
    """A JupyterLab server and the folder it serves."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        settings = {
            f"JUPYTER{name}": str(root / f".{name.lower()}")
            for name in ("_CONFIG_DIR", "LAB_SETTINGS_DIR", "LAB_WORKSPACES_DIR", "_RUNTIME_DIR")
        }
        # No news, no extension list: both would be fetched from elsewhere.
        config = {
            "LabApp": {
                "news_url": None,
                "check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
                "extension_manager": "readonly",
            }
        }
        folder = Path(settings["JUPYTER_CONFIG_DIR"])
        folder.mkdir()
        (folder / "jupyter_lab_config.json").write_text(json.dumps(config))
        # Nor a question whether to fetch news.
        news = Path(settings["JUPYTERLAB_SETTINGS_DIR"]) / "@jupyterlab" / "apputils-extension"
        news.mkdir(parents=True)
        silent = {"fetchNews": "false", "checkForUpdates": False}
        (news / "notification.jupyterlab-settings").write_text(json.dumps(silent))
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
        command += ["--ip=127.0.0.1", f"--port={self.url.rpartition(':')[2]}"]
        command += ["--ServerApp.port_retries=0", "--IdentityProvider.token="]
        command += ["--ServerApp.disable_check_xsrf=True", "--LabApp.expose_app_in_browser=True"]
        command += [f"--ServerApp.root_dir={root}"]
        # Kernels import what is only in the checkout, too.
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        settings["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        self.log = root / "lab.log"
        with self.log.open("w") as log:
            self.server = subprocess.Popen(
                command, env=os.environ | settings, stdout=log, stderr=log
            )

    def wait(self) -> None:
        """Until it answers."""
        for _ in range(480):
            try:
                urllib.request.urlopen(f"{self.url}/api/status", timeout=1)
                return
            except OSError:
                assert self.server.poll() is None, self.log.read_text()
                time.sleep(0.25)
        raise AssertionError(self.log.read_text())

    def address(self, name: str, cells: list[str]) -> str:
        """Write a notebook of these cells and return where to open it."""
        import nbformat

        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        )
        nbformat.write(notebook, self.root / name)
        return f"{self.url}/doc/tree/{name}?reset"
