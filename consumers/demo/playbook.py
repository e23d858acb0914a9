"""What a NoETL execution reports: a playbook of a few steps, each a command that a worker claims and runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from noetl_events.event_names import EventStatus, EventType

if TYPE_CHECKING:
    from collections.abc import Iterator

_STEPS: Final = ("start", "fetch_posts", "transform", "load_postgres", "end")
_PLAYBOOK: Final = "examples/http_to_postgres"
_ROW: Final = {"id": 17, "title": "sunt aut facere", "body": "quia et suscipit recusandae consequuntur expedita et cum"}


class Happening(NamedTuple):
    """The arguments of one `EventEmitter.emit`."""

    event_type: str
    step: str
    status: str
    context: dict[str, Any]


def execution() -> Iterator[Happening]:
    """Yield what one execution reports, in order."""
    yield Happening(EventType.PLAYBOOK_INITIALIZED, _PLAYBOOK, EventStatus.STARTED, {"workload": {"pages": 2}})
    yield Happening(EventType.WORKFLOW_INITIALIZED, "workflow", EventStatus.STARTED, {"steps": list(_STEPS)})
    for number, step in enumerate(_STEPS):
        yield from _command(number, step)
    yield Happening(EventType.WORKFLOW_COMPLETED, "workflow", EventStatus.COMPLETED, {})
    yield Happening(EventType.PLAYBOOK_COMPLETED, _PLAYBOOK, EventStatus.COMPLETED, {"rows": 100})


def _command(number: int, step: str) -> Iterator[Happening]:
    command = {"command_id": number, "tool": {"kind": "http", "timeout": 30.0}}
    yield Happening(EventType.COMMAND_ISSUED, step, EventStatus.PENDING, command)
    yield Happening(EventType.COMMAND_CLAIMED, step, EventStatus.RUNNING, command)
    yield Happening(EventType.COMMAND_STARTED, step, EventStatus.RUNNING, command)
    yield Happening(EventType.STEP_ENTER, step, EventStatus.STARTED, {"input": {"url": "https://example.org/posts"}})
    yield Happening(EventType.CALL_DONE, step, EventStatus.COMPLETED, {"result": {"rows": [_ROW, _ROW]}})
    yield Happening(EventType.STEP_EXIT, step, EventStatus.COMPLETED, {"processing_ms": 12.5 + number})
    yield Happening(EventType.COMMAND_COMPLETED, step, EventStatus.COMPLETED, {"processing_ms": 14.25 + number})
