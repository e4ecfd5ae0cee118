"""Fixtures over the made-up tables, problems and maps of `samples`."""

import pytest
from show import samples


@pytest.fixture
def metrics():
    return samples.make_metrics()


@pytest.fixture
def summary(metrics):
    return samples.make_summary(metrics)


@pytest.fixture
def comparisons(metrics):
    return samples.make_comparisons(metrics)


@pytest.fixture
def commitment_table():
    return samples.make_commitment()


@pytest.fixture
def access_table():
    return samples.make_access()


@pytest.fixture
def problem():
    return samples.make_problem()


@pytest.fixture
def maps():
    return samples.make_maps(0)


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    return samples.make_report(tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="session")
def hostile_report(tmp_path_factory):
    path = tmp_path_factory.mktemp("hostile") / "report.html"
    return samples.make_report(path, hostile=samples.HOSTILE)
