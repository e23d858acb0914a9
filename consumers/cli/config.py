"""The command `noetl-events config`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec
from cyclopts import App
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consumers.cli.options import AsJson, Nats, Partitions, load_settings
from consumers.logs import escaped
from consumers.settings import Tables, declared_settings

if TYPE_CHECKING:
    from consumers.settings import Loaded, Setting

config = App(name="config", help="Show the settings and their schema.")


@config.command
def show(*, nats: Nats = None, partitions: Partitions = None, json: AsJson = False) -> int:
    """
    Check all settings, and print each with its origin; secrets are hidden.

    Exit code 2 for an invalid setting; the error names its origin.

    Example: `noetl-events config show --config settings.toml`
    """
    loaded = load_settings({"nats.servers": nats, "stream.partitions": partitions})
    if json:
        rows = [_row(loaded, setting) for setting in declared_settings()]
        sys.stdout.write(msgspec.json.encode(rows).decode() + "\n")
    else:
        Console().print(_table(loaded))
    return 0


@config.command
def schema() -> int:
    """
    Print the JSON schema of the settings file, for an editor or a validator.

    Example: `noetl-events config schema > settings.schema.json`
    """
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Tables))).decode() + "\n")
    return 0


def _row(loaded: Loaded, setting: Setting) -> dict[str, Any]:
    return {
        "key": setting.key,
        "environ": setting.environ,
        "value": setting.redacted(loaded.value(setting)),
        "origin": loaded.origin(setting),
        "reloadable": setting.reloadable,
    }


def _table(loaded: Loaded) -> Table:
    table = Table("setting", "value", "from", "variable", box=None, pad_edge=False)
    for setting in declared_settings():
        origin = loaded.origin(setting)
        cells = (setting.key, setting.shown(loaded.value(setting)), origin, setting.environ)
        table.add_row(*[Text(escaped(cell)) for cell in cells], style="dim" if origin == "default" else "")
    return table
