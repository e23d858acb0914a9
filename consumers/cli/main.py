"""The commands, and what a failure of any of them looks like: one line on standard error, never a traceback."""

from __future__ import annotations

import os
import sys

from cyclopts import App

import consumers.cli.demo
import consumers.cli.emit
import consumers.cli.project
import consumers.cli.replay
import consumers.cli.schema
import consumers.cli.stream
import consumers.cli.tail
from consumers import logs
from noetl_events.jetstream.errors import NatsUnavailable, TopologyDrift
from noetl_events.json_values import MalformedEvent
from noetl_events.sink import EventsRejected, SinkUnavailable

NOT_DONE = 1
WRONG_INPUT = 2
INTERRUPTED = 130

app = App(
    name="noetl-events",
    help="Carry NoETL's execution events through NATS JetStream into durable places.",
    help_format="markdown",
)
app.command(consumers.cli.demo.demo)
app.command(consumers.cli.emit.emit)
app.command(consumers.cli.project.project)
app.command(consumers.cli.replay.replay)
app.command(consumers.cli.tail.tail)
app.command(consumers.cli.stream.stream)
app.command(consumers.cli.schema.schema)


def main() -> None:
    """Run the command in `sys.argv` and leave with its exit code."""
    try:
        logs.configure(os.environ.get("NOETL_LOG_LEVEL", "info"))
        code = app(result_action="return_value")
    except KeyboardInterrupt:
        code = INTERRUPTED
    except (MalformedEvent, TopologyDrift) as exc:
        code = _complain(exc, WRONG_INPUT)
    except (SinkUnavailable, NatsUnavailable, EventsRejected) as exc:
        code = _complain(exc, NOT_DONE)
    except (ValueError, OSError) as exc:
        code = _complain(exc, WRONG_INPUT)
    sys.exit(code)


def _complain(exc: Exception, code: int) -> int:
    print(f"noetl-events: {exc}", file=sys.stderr)
    return code
