"""What all tests share: the rules of a CI session, then fixtures."""

import os
import shutil
import socket
import sys
from ipaddress import ip_address

import pytest

# --- Rules of a session -------------------------------------------------------------------------


def _switched_on(variable: str) -> bool:
    return os.environ.get(variable, "").lower() not in ("", "0", "false")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test is a failure: something that the session should have had was missing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not _switched_on("CI"):
        return
    skipped = reporter.stats.get("skipped", [])
    if skipped:
        reporter.write_line(f"\nCI allows no skipped test, but {len(skipped)} were:", red=True)
        for report in skipped:
            reporter.write_line(f"  {report.nodeid}: {report.longrepr[-1]}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


# --- No network ---------------------------------------------------------------------------------

_REACHED: list[str] = []
_LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyname")
_SENDING = ("socket.connect", "socket.sendto", "socket.sendmsg")


def _watch_network(event: str, arguments: tuple) -> None:
    if event in _LOOKUPS:
        host = arguments[0]
    elif event in _SENDING and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost", socket.gethostname()):
        return
    try:
        here = ip_address(name.partition("%")[0])
        if here.is_loopback or here.is_unspecified or (event in _LOOKUPS):
            return
    except ValueError:
        pass
    _REACHED.append(f"{event} {name}")
    raise ConnectionRefusedError(f"tests have no network, but {name} was asked for")


sys.addaudithook(_watch_network)


@pytest.fixture(autouse=True)
def reached():
    """What this test asked of other machines, which it must not, even if it goes on without."""
    yield _REACHED
    asked = _REACHED[:]
    _REACHED.clear()
    assert asked == [], "tests have no network"


# --- Fixtures -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def browser():
    """A headless chromium of the system; where there is none, skip, or fail if one is required."""
    path = os.environ.get("CHROME_BIN") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if path is None:
        missing = "no chromium found; install it or set CHROME_BIN"
        pytest.fail(missing) if _switched_on("REQUIRE_BROWSER") else pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # No sandbox: CI runs as root; no /dev/shm: containers give it 64 MB.
        chromium = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def one_thread():
    """Torch on one thread, so that sums are added in one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def random_mllm():
    """A tiny Qwen2.5-VL with random weights, built in code; leave it as you found it."""
    from tiny import tiny_mllm

    return tiny_mllm()
