"""The commands, and what a failure of any of them looks like: one line on standard error, never a traceback."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from consumers import logs
from consumers.cli.bench import bench
from consumers.cli.config import config
from consumers.cli.dead import dead
from consumers.cli.demo import demo
from consumers.cli.doctor import doctor
from consumers.cli.emit import emit
from consumers.cli.health import health
from consumers.cli.permissions import permissions
from consumers.cli.project import project
from consumers.cli.rebuild import rebuild
from consumers.cli.replay import replay
from consumers.cli.schema import schema
from consumers.cli.serve import serve
from consumers.cli.spool import spool
from consumers.cli.stream import stream
from consumers.cli.tail import tail
from consumers.cli.verify import verify
from consumers.settings import CONFIG
from noetl_events.jetstream.errors import NatsUnavailable, StreamReplaced, TopologyDrift
from noetl_events.json_values import MalformedEvent
from noetl_events.sink import EventsRejected, SinkUnavailable

NOT_DONE = 1
WRONG_INPUT = 2
INTERRUPTED = 130

app = App(
    name="noetl-events",
    help="Carry NoETL's execution events through NATS JetStream into durable places.",
    help_format="markdown",
    version=lambda: version("noetl-events"),
)
app.command(bench)
app.command(config)
app.command(dead)
app.command(demo)
app.command(doctor)
app.command(emit)
app.command(health)
app.command(permissions)
app.command(project)
app.command(rebuild)
app.command(replay)
app.command(tail)
app.command(spool)
app.command(stream)
app.command(schema)
app.command(serve)
app.command(verify)


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
    """Run the command in `sys.argv` and leave with its exit code."""
    try:
        logs.configure(os.environ.get("NOETL_LOG_LEVEL") or "info", os.environ.get("NOETL_LOG_FORMAT") or "auto")
        code = app.meta(sys.argv[1:], result_action="return_value")
    except KeyboardInterrupt:
        code = INTERRUPTED
    except (MalformedEvent, TopologyDrift) as exc:
        code = _complain(exc, WRONG_INPUT)
    except (SinkUnavailable, NatsUnavailable, StreamReplaced, EventsRejected) as exc:
        code = _complain(exc, NOT_DONE)
    except ModuleNotFoundError as exc:
        code = _complain(ValueError(f"this needs the module {exc.name}; pip install 'noetl-events[all]'"), WRONG_INPUT)
    except (ValueError, OSError) as exc:
        code = _complain(exc, WRONG_INPUT)
    sys.exit(code)


def _complain(exc: Exception, code: int) -> int:
    print(f"noetl-events: {exc}", file=sys.stderr)
    return code
