"""The command line: the list of commands, and their errors as one line on standard error, never a traceback."""

from __future__ import annotations

import os
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from consumers import logs
from consumers.settings import CONFIG
from noetl_events.jetstream.errors import NatsUnavailable, StreamReplaced
from noetl_events.sink import EventsRejected, SinkUnavailable

NOT_DONE: Final = 1
WRONG_INPUT: Final = 2
INTERRUPTED: Final = 130

_TRY_AGAIN: Final = (SinkUnavailable, NatsUnavailable, StreamReplaced, EventsRejected)
# MalformedEvent and StreamDrift are ValueErrors too.
_CORRECT_FIRST: Final = (ValueError, OSError, ModuleNotFoundError)

COMMANDS: Final = (
    "bench",
    "config",
    "dead",
    "demo",
    "doctor",
    "emit",
    "health",
    "permissions",
    "project",
    "rebuild",
    "replay",
    "tail",
    "spool",
    "stream",
    "schema",
    "serve",
    "verify",
)

app = App(
    name="noetl-events",
    help="Deliver NoETL's execution events through NATS JetStream to durable destinations.",
    help_format="markdown",
    version=lambda: version("noetl-events"),
)
for _name in COMMANDS:
    # A path is imported when its command is used, so that a health probe loads no client of NATS.
    app.command(f"consumers.cli.{_name}:{_name}")


@app.meta.default
def choose_config(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[
        Path | None, Parameter(help="Settings file, TOML; `NOETL_CONFIG` by default.", negative=())
    ] = None,
) -> Any:
    """Run the command in *tokens* with the settings of the file *config*."""
    if config is not None:
        os.environ[CONFIG] = str(config)
    return app(tokens, result_action="return_value")


def main() -> None:
    """Run the command in `sys.argv` and exit with its code."""
    code: int | None = None
    try:
        logs.configure(os.environ.get("NOETL_LOG_LEVEL") or "info", os.environ.get("NOETL_LOG_FORMAT") or "auto")
        # SIGTERM interrupts a command like Ctrl-C, so that open resources are closed.  Daemons handle both signals
        # themselves.
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        arguments = sys.argv[1:]
        if not {*COMMANDS, "--version"}.intersection(arguments):
            # The help of the command line has the first sentence of every command.
            app.resolved_commands()
        code = app.meta(arguments, result_action="return_value")
    except (KeyboardInterrupt, *_TRY_AGAIN, *_CORRECT_FIRST) as exc:
        code = exit_code_of(type(exc))
        if not isinstance(exc, KeyboardInterrupt):
            print(f"noetl-events: {_in_words(exc)}", file=sys.stderr)
    sys.exit(code)


def exit_code_of(kind: type[BaseException]) -> int | None:
    """Return the exit code for an error of this *kind*; None for a bug, which shows a traceback."""
    if issubclass(kind, KeyboardInterrupt):
        return INTERRUPTED
    if issubclass(kind, _TRY_AGAIN):
        return NOT_DONE
    return WRONG_INPUT if issubclass(kind, _CORRECT_FIRST) else None


def _in_words(exc: BaseException) -> str:
    if isinstance(exc, ModuleNotFoundError) and "pip install" not in str(exc):
        return f"this needs the module {exc.name}; pip install 'noetl-events[all]'"
    return str(exc)
