"""pyproject.toml, environment.yml and constraints.txt describe one and the same environment."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {
    "torch": "pytorch",
    "matplotlib": "matplotlib-base",
    "jupyter-client": "jupyter_client",
    "opencv-python-headless": "py-opencv",
}
"""Packages that conda-forge calls otherwise; every other name is the same."""
NOT_IN_CONDA = {"bridge", "browser", "math"}
"""Extras that environment.yml leaves out; its heading says why."""
BY_PIP = ["sentencex"]
"""Packages that environment.yml has pip install."""


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def environment() -> dict:
    return yaml.safe_load((ROOT / "environment.yml").read_text())


@pytest.fixture(scope="module")
def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {}
    for line in lines:
        if not line.startswith("#"):
            name, version = line.split("==")
            pins[canonicalize_name(name)] = Version(version)
    return pins


def requirements(project: dict, without: set[str] = frozenset()) -> dict[str, SpecifierSet]:
    """All direct requirements, by canonical name."""
    texts = list(project["dependencies"])
    for extra, extra_texts in project["optional-dependencies"].items():
        if extra not in without:
            texts += extra_texts
    parsed = [Requirement(text) for text in texts]
    found = {canonicalize_name(r.name): r.specifier for r in parsed}
    assert len(found) == len(parsed), "a package is required twice in pyproject.toml"
    return found


def conda_packages(environment: dict) -> dict[str, SpecifierSet]:
    specs = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    named = [(re.match(r"[\w.-]+", spec)[0], spec) for spec in specs]
    found = {name: SpecifierSet(spec[len(name) :].strip()) for name, spec in named}
    assert len(found) == len(specs), "a package is listed twice in environment.yml"
    return found


def test_every_requirement_has_a_lower_bound(project):
    unbounded = [
        name
        for name, specifier in requirements(project).items()
        if not any(part.operator == ">=" for part in specifier)
    ]
    assert unbounded == []


def test_environment_lists_the_same_packages_and_bounds(project, environment):
    expected = {
        CONDA_NAMES.get(name, name): specifier
        for name, specifier in requirements(project, without=NOT_IN_CONDA).items()
    }
    expected["python"] = SpecifierSet(project["requires-python"])
    expected["pip"] = SpecifierSet("")
    expected = {name: bound for name, bound in expected.items() if name not in BY_PIP}
    assert conda_packages(environment) == expected


def test_environment_uses_conda_forge_and_this_checkout_only(environment):
    assert environment["name"] == "attcot"
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    nested = [entry for entry in environment["dependencies"] if not isinstance(entry, str)]
    own = requirements(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])
    assert nested == [{"pip": [*(f"{name} {own[name]}" for name in BY_PIP), "-e ."]}]


def test_constraints_are_plain_public_pins():
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            # No URL, no path, no local tag such as +cpu: any index must be able to serve it.
            assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!]*", line), line


def test_constraints_pin_every_direct_requirement_within_its_bounds(project, pins):
    required = requirements(project)
    assert set(required) - set(pins) == set()
    outside = {
        name: f"{pins[name]} is not {specifier}"
        for name, specifier in required.items()
        if pins[name] not in specifier
    }
    assert outside == {}


def test_ci_compares_on_two_instruction_sets_as_well():
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())
    job = workflow["jobs"]["tests"]
    assert job["strategy"]["matrix"]["target"] == ["test", "portable"]
    assert job["steps"][-1]["run"] == ".ci/run ${{ matrix.target }}"
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    settings = [
        dict(re.findall(r"(\w+)=(\w+)", re.search(rf"^{name} := (.*)$", makefile, re.M).group(1)))
        for name in ("OLD", "AVX2")
    ]
    old, new = settings
    assert set(old) == set(new) >= {"ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS"}
    assert all(old[name] != new[name] for name in old)
    recipe = re.search(r"^portable: .*\n((?:\t.*\n)+)", makefile, re.M).group(1).split()
    assert recipe == [
        *("$(OLD)", "$(COMPARE_NOTEBOOKS)", "$(OLD)", "$(GOLDEN)"),
        *("$(AVX2)", "$(COMPARE_NOTEBOOKS)", "$(AVX2)", "$(GOLDEN)"),
    ]
