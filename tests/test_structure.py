"""The structure of the tree: imports without cycles, each external library behind its own border."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
PACKAGES: Final = ("noetl_events", "consumers")


@cache
def imports() -> dict[str, frozenset[str]]:
    """Return the imports of each module, including those in functions and for annotations."""
    files = {_name(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    return {name: frozenset(_imported(path, set(files)) - {name}) for name, path in files.items()}


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imported(path: Path, modules: set[str]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in modules else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & modules


def reached(start: str) -> set[str]:
    """Return the modules that *start* imports, directly and indirectly."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        fresh = imports()[waiting.pop()] - seen
        seen |= fresh
        waiting += fresh
    return seen


def test_no_module_imports_itself_by_way_of_others() -> None:
    """No import is part of a cycle, including imports in functions and for annotations."""
    assert len(imports()) > 100
    assert [name for name in imports() if name in reached(name)] == []


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("noetl_events", "consumers"),
        ("noetl_events.jetstream", "noetl_events.sinks"),
        ("noetl_events.jetstream.publish", "noetl_events.jetstream.consume"),
        ("noetl_events.jetstream.connect", "noetl_events.jetstream.connection"),
    ],
)
def test_lower_layer_knows_nothing_of_a_higher_one(package: str, forbidden: str) -> None:
    """A lower package imports no higher one."""
    inside = [name for name in imports() if f"{name}.".startswith(f"{package}.")]
    upwards = [(name, each) for name in inside for each in imports()[name] if f"{each}.".startswith(f"{forbidden}.")]

    assert inside
    assert upwards == []
