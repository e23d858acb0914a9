"""The reference: the committed pages equal the output of the code, and no part of the code is missing."""

from __future__ import annotations

import re

import pytest

from consumers.cli.app import app
from consumers.settings import declared_settings
from docs.tools.metrics import SUFFIXES, served_metrics
from docs.tools.reference import FOLDER, PAGES
from tests.docs.pages import ROOT

_ERROR = re.compile(r"^class ([A-Z]\w+)\((?:Exception|\w*Error|NatsUnavailable|SinkUnavailable)\):", re.MULTILINE)
# These never reach a caller: each is caught where it is raised.
_INNER = {"ApiError", "BatchFailed", "ConnectFailed", "DemoFailed"}


def page(name: str) -> str:
    """Return the committed page."""
    return (FOLDER / name).read_text()


@pytest.mark.parametrize("name", PAGES)
def test_page_is_what_the_code_gives(name: str) -> None:
    """A change of a command, a setting, a metric or an error comes with its page."""
    assert page(name) == PAGES[name](), "run `make reference`, and commit docs/reference"


def test_no_page_is_left_over() -> None:
    """Every page in the folder is generated from the code."""
    assert {path.name for path in FOLDER.iterdir()} == set(PAGES)


def test_every_command_is_there() -> None:
    """Each command and each of its subcommands has a heading."""
    names = [name for name in app if not name.startswith("-")]
    commands = names + [f"{name} {sub}" for name in names for sub in app[name] if not sub.startswith("-")]

    assert len(commands) > 20
    assert [name for name in commands if f" noetl-events {name}\n" not in page("cli.md")] == []


def test_every_setting_and_metric_is_there() -> None:
    """Each setting by its key and its variable, each metric by the names it is served under."""
    settings = [name for one in declared_settings() for name in (one.key, one.environ)]
    metrics = [f"{one.name}{suffix}" for one in served_metrics() for suffix in SUFFIXES[one.type]]

    assert [name for name in settings if f"`{name}`" not in page("settings.md")] == []
    assert [name for name in metrics if f"`{name}`" not in page("metrics.md")] == []


def test_every_error_is_there() -> None:
    """The page has each public exception that a caller may get."""
    sources = [path for folder in ("noetl_events", "consumers") for path in (ROOT / folder).rglob("*.py")]
    found = {name for path in sources if "testing" not in path.parts for name in _ERROR.findall(path.read_text())}

    assert {"SinkUnavailable", "SettingsError", "SpoolFull"} <= found
    assert {name for name in found - _INNER if f"`{name}`" not in page("errors.md")} == set()
