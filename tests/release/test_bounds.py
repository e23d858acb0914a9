"""Libraries with private names in use have an upper bound, which admits the tested release."""

from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from noetl_events.jetstream.client import NATS_PY

ROOT = Path(__file__).parents[2]


def requirements() -> list[Requirement]:
    """Return every requirement of the project, including those of the extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("name", ["nats-py", "uvicorn"])
def test_bound_admits_what_is_tested(name: str) -> None:
    """Each requirement ends before the next minor release, and admits the pinned one."""
    found = [requirement for requirement in requirements() if requirement.name == name]

    assert found
    for requirement in found:
        assert any(part.operator == "<" for part in requirement.specifier), requirement
        assert version(name) in requirement.specifier
        major, minor, *_ = (int(part) for part in version(name).split("."))
        assert f"{major}.{minor + 1}" not in requirement.specifier


def test_pins_are_within_the_bounds() -> None:
    """Every file of pins has a release that the bounds admit."""
    bounds = {requirement.name: requirement.specifier for requirement in requirements() if requirement.specifier}
    for file in (ROOT / "requirements").glob("*.txt"):
        pins = [line.partition(" ")[0].split("==") for line in file.read_text().splitlines() if "==" in line]
        for name, pin in pins:
            if name in ("nats-py", "uvicorn"):
                assert pin in bounds[name], (file.name, name, pin)


def test_remedy_names_the_bound() -> None:
    """The warning about another nats-py names the required version."""
    (required,) = {str(one) for one in requirements() if one.name == "nats-py" and not one.extras}

    assert Requirement(required) == Requirement(NATS_PY)
