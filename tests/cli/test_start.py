"""The start of a command: only its own module and the libraries it needs are imported."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

from consumers.cli.app import COMMANDS
from tests.cli.command import environment

_LIST: Final = """
import sys
from consumers.cli import main
try:
    main()
finally:
    print("loaded:", *sys.modules)
"""
_HEAVY: Final = frozenset({"aiohttp", "asyncpg", "nats", "opentelemetry", "prometheus_client", "starlette", "uvicorn"})


def loaded_by(*arguments: str) -> set[str]:
    """Return the names of the modules that a new process has imported at the end of the command."""
    command = [sys.executable, "-c", _LIST, *arguments]
    done = subprocess.run(command, env=environment("nats://127.0.0.1:1"), capture_output=True, text=True, check=False)
    output, _, names = done.stdout.rpartition("loaded:")
    assert output, done.stderr
    return set(names.split())


@pytest.mark.parametrize(
    ("arguments", "modules"),
    [
        pytest.param(["health", "--url", "http://127.0.0.1:1"], {"app", "health"}, id="health"),
        pytest.param(["health", "--help"], {"app", "health"}, id="the help of a command"),
        pytest.param(["--version"], {"app"}, id="version"),
    ],
)
def test_command_loads_its_own_module_only(arguments: list[str], modules: set[str]) -> None:
    """A health probe loads no other command, no client of NATS, and neither a web server nor a driver."""
    loaded = loaded_by(*arguments)

    assert {name for name in loaded if name.startswith("consumers.cli.")} == {
        f"consumers.cli.{name}" for name in modules
    }
    assert _HEAVY & loaded == set()


def test_help_and_errors_know_every_command() -> None:
    """The help of a new process describes every command, and a misspelt name is answered with the nearest one."""
    start = [sys.executable, "-m", "consumers"]
    page = subprocess.run([*start, "--help"], capture_output=True, text=True, check=True).stdout
    misspelt = subprocess.run([*start, "healt"], capture_output=True, text=True, check=False)
    described = {line.split()[1] for line in page.splitlines() if line.startswith("│") and len(line.split()) > 4}

    assert described >= set(COMMANDS)
    assert misspelt.returncode == 2
    assert 'Did you mean "health"?' in misspelt.stderr
