"""The structure of the tree: imports without cycles, each external library behind its own border."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[1]
PACKAGES: Final = ("noetl_events", "consumers")
MOST_SINGLE_IMPORTERS: Final = 0.25
# Methods of each NamedTuple, which are public in spite of their names.
_OF_NAMED_TUPLES: Final = {"_asdict", "_replace"}


@cache
def imports() -> dict[str, frozenset[str]]:
    """Return the imports of each module, including those in functions and for annotations."""
    files = {_name(path): path for path in trees()}
    return {name: frozenset(_imported(path, set(files)) - {name}) for name, path in files.items()}


@cache
def trees() -> dict[Path, ast.Module]:
    """Return the syntax tree of each file."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in files}


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imported(path: Path, modules: set[str]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(trees()[path]):
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


def test_most_modules_have_several_importers() -> None:
    """
    Fewer than a quarter of the modules exist for one importer only.

    The command line imports its commands by name, so they have no importer.
    """
    importers = Counter(each for imported in imports().values() for each in imported)
    single = [name for name, count in importers.items() if count == 1]

    assert len(single) < MOST_SINGLE_IMPORTERS * len(imports()), sorted(single)


def test_one_file_uses_private_names_of_a_library() -> None:
    """Private attributes of other objects, and private names of other modules, are used in the client only."""
    found = {path.relative_to(ROOT).as_posix() for path, tree in trees().items() if any(_private_names(tree))}

    assert found == {"noetl_events/jetstream/client.py"}


def _private_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if _is_private(alias.name))
        elif isinstance(node, ast.Attribute) and _is_private(node.attr) and not _is_own(node.value):
            yield node.attr


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in _OF_NAMED_TUPLES


def _is_own(owner: ast.expr) -> bool:
    if isinstance(owner, ast.Call):
        owner = owner.func
    return isinstance(owner, ast.Name) and owner.id in {"self", "cls", "super"}


@pytest.mark.parametrize(
    ("library", "files"),
    [
        # The transport's base class is abstract, and has no private names.
        pytest.param("nats", {"noetl_events/jetstream/client.py", "noetl_events/jetstream/connect/transport.py"}),
        pytest.param("uvicorn", {"consumers/web_server.py"}),
    ],
)
def test_few_files_derive_from_a_class_of_a_library(library: str, files: set[str]) -> None:
    """A derived class overrides private methods without a trace in its text, so such classes have one home."""
    found = {path.relative_to(ROOT).as_posix() for path, tree in trees().items() if _derives_from(tree, library)}

    assert found == files


def _derives_from(tree: ast.Module, library: str) -> bool:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{library}."):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if f"{alias.name}.".startswith(f"{library}.")}
    bases = (ast.unparse(base) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases)
    return any(base in names or base.rpartition(".")[0] in names for base in bases)
