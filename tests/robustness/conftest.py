"""Counts the faults that these tests plant, and prints what became of them as a table."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

Fault = Callable[[str], AbstractContextManager[None]]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("robustness")
    group.addoption("--kills", type=int, default=3, help="kill -9 of runs, in all")
    group.addoption("--minutes", type=float, default=0.0, help="of drawn command lines")
    group.addoption("--fuzz-seed", type=int, default=0, help="of the first command line")
    group.addoption("--examples", type=int, default=15, help="damaged inputs per loader")


@pytest.fixture
def fault(request) -> Fault:
    """A fault planted inside ``with fault("its kind"):``; lost unless the block ends well."""

    @contextmanager
    def planted(kind: str) -> Iterator[None]:
        entry = [kind, False]
        request.node.user_properties.append(("fault", entry))
        yield
        entry[1] = True

    return planted


def pytest_terminal_summary(terminalreporter) -> None:
    tried: Counter[str] = Counter()
    survived: Counter[str] = Counter()
    # Reports reach the terminal from other processes, too.
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                for name, entry in report.user_properties:
                    if name == "fault":
                        tried[entry[0]] += 1
                        survived[entry[0]] += entry[1]
    if not tried:
        return
    width = max(map(len, tried))
    terminalreporter.write_line(f"\n{'fault':<{width}}{'tried':>8}{'survived':>10}{'lost':>6}")
    for kind in tried:
        row = (tried[kind], survived[kind], tried[kind] - survived[kind])
        terminalreporter.write_line(f"{kind:<{width}}{row[0]:>8}{row[1]:>10}{row[2]:>6}")
    n, kept = tried.total(), survived.total()
    terminalreporter.write_line(f"{'all':<{width}}{n:>8}{kept:>10}{n - kept:>6}")
