"""Bench `explorer` at a small scale: it runs, and a missed bar or browser is seen."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from attcot_analysis.errors import MeasureError
from benchmarks import explorer as bench
from benchmarks import run_bench

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_it_reports_latency_and_sizes(browser):
    # In a thread of its own: the fixture's browser already has this one.
    with ThreadPoolExecutor(1) as other:
        found = other.submit(run_bench, "explorer", quick=True).result()
    rows = {row.name: row for row in found}
    painted = [row for name, row in rows.items() if name.startswith("key press to painted")]
    assert len(painted) == 4 and all(0 < row.value < 2000 for row in painted)
    assert all(row.holds is None for row in rows.values()), "small shapes are not judged"
    assert rows["twin in a notebook, testbed's size"].value > 100
    assert rows["chromium"].value.split(".")[0].isdecimal()


def test_the_bars_are_for_the_full_scale():
    assert (bench.FULL.layers, bench.FULL.heads, bench.FULL.side) == (28, 28, 32)
    assert bench.FULL.steps * 30 >= 300


def test_without_a_browser_it_says_so(monkeypatch):
    monkeypatch.delenv("CHROME_BIN", raising=False)
    monkeypatch.setattr(bench.shutil, "which", lambda name: None)
    with pytest.raises(MeasureError, match="set CHROME_BIN"):
        bench.find_chromium()
