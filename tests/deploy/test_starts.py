"""The start of containers in both deployments: with existing arguments and settings."""

from __future__ import annotations

import re
from collections import Counter
from importlib.metadata import version

import pytest
from cyclopts.exceptions import CycloptsError

from consumers.cli.app import app
from tests.deploy.files import ROOT, Start, settings_of_base, starts

_SETTING = re.compile(r'"((?:NATS|NOETL)_[A-Z_]+)"')
# These are read by asyncpg, and by a script in compose.yaml.
_OTHERS = {"PGPASSWORD", "GATEWAY_TOKEN"}


def known_settings() -> set[str]:
    """Return the names of settings in the code, and of the files that they may come from."""
    sources = [*(ROOT / "consumers").rglob("*.py"), *(ROOT / "noetl_events").rglob("*.py")]
    names = {name for source in sources for name in _SETTING.findall(source.read_text())}
    return names | {f"{name}_FILE" for name in names} | _OTHERS


def refusal(arguments: list[str]) -> str:
    """Return the error of the command line for *arguments*, or an empty text."""
    try:
        app.parse_args(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as exc:
        return str(exc)
    return ""


@pytest.mark.parametrize("start", starts(), ids=lambda start: start.name)
def test_arguments_and_settings_exist(start: Start) -> None:
    """The command accepts the arguments, and every variable of the project is read."""
    assert refusal(start.arguments) == ""
    assert start.environment <= known_settings()


def test_an_argument_that_no_command_has_is_found() -> None:
    """A misspelt option is refused, so that the test above can fail."""
    assert "--standbye" in refusal(["project", "--standbye", "--to", "memory:"])
    assert "NATS_URLS" not in known_settings()


def test_everything_is_started_somewhere() -> None:
    """Both deployments start each daemon and check its health."""
    commands = Counter(start.arguments[0] for start in starts())
    assert commands == {"stream": 2, "schema": 2, "project": 2, "serve": 2, "emit": 1, "health": 2}
    assert settings_of_base().keys() <= known_settings()


def test_the_version_is_that_of_the_distribution() -> None:
    """`noetl-events --version` prints the installed version."""
    assert callable(app.version)
    assert app.version() == version("noetl-events")
