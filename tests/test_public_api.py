"""The imports of a worker pod, and the shape of the tree."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import noetl_events

ROOT = Path(__file__).parent.parent
SOURCES = [*ROOT.glob("noetl_events/**/*.py"), *ROOT.glob("consumers/**/*.py")]
HEAVY = {
    "asyncpg",
    "cyclopts",
    "rich",
    "sqlite3",
    "starlette",
    "aiohttp",
    "pytest",
    "hypothesis",
    "nats",
    "consumers",
} | {"opentelemetry"}


def imports(path: Path) -> set[str]:
    """Return the modules that *path* imports, anywhere in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_door_lists_what_is_behind_it() -> None:
    """`__all__` is sorted, complete, and has at most 18 names."""
    own = (
        name for name, value in vars(noetl_events).items() if str(getattr(value, "__module__", "")).startswith("noetl_")
    )
    public = [name for name in own if not name.startswith("_")]

    assert noetl_events.__all__ == sorted(noetl_events.__all__)
    assert set(public) <= set(noetl_events.__all__)
    assert all(hasattr(noetl_events, name) for name in noetl_events.__all__)


def test_importing_is_light() -> None:
    """`import noetl_events` loads no driver, no web server, no command line and no nats."""
    code = "import sys, noetl_events; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert not HEAVY & set(loaded)


def test_client_of_nats_is_imported_on_first_use() -> None:
    """The names that need a client of NATS are the ones of their modules, and another name is an AttributeError."""
    from noetl_events.jetstream.connection import Connection  # noqa: PLC0415  (the package comes first)
    from noetl_events.jetstream.options import ConnectOptions  # noqa: PLC0415
    from noetl_events.sinks.nats import NatsSink  # noqa: PLC0415
    from noetl_events.sinks.spool import SpoolSink  # noqa: PLC0415

    assert noetl_events.Connection is Connection
    assert noetl_events.ConnectOptions is ConnectOptions
    assert noetl_events.NatsSink is NatsSink
    assert noetl_events.SpoolSink is SpoolSink
    with pytest.raises(AttributeError, match="module 'noetl_events' has no attribute 'KafkaSink'"):
        noetl_events.KafkaSink  # noqa: B018  (the access must fail)


def test_one_idea_a_file() -> None:
    """No file of the project passes 500 lines, tests included."""
    paths = [*SOURCES, *ROOT.glob("tests/**/*.py"), *ROOT.glob("bench/*.py")]

    assert [path for path in paths if len(path.read_text().splitlines()) > 500] == []


def test_library_does_not_know_its_daemons() -> None:
    """`consumers` imports `noetl_events`, never the reverse."""
    for path in ROOT.glob("noetl_events/**/*.py"):
        assert not [name for name in imports(path) if name.startswith("consumers")], path


def test_nats_stays_behind_its_border() -> None:
    """Only `noetl_events.jetstream` imports nats."""
    for path in SOURCES:
        if "jetstream" not in path.parts:
            assert not [name for name in imports(path) if name == "nats" or name.startswith("nats.")], path
