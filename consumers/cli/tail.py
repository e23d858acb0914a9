"""The command `noetl-events tail`."""

from __future__ import annotations

import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

from consumers.cli.options import Nats, read_settings
from consumers.daemon import run_until_stopped
from noetl_events.envelope import decode
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.consume.history import Span, follow, read_span
from noetl_events.jetstream.message import is_of_no_publisher
from noetl_events.json_values import MalformedEvent

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from noetl_events.jetstream.message import Message

_MAX_SHOWN: Final = 300
"""Largest number of characters of a name, because a megabyte of it would fill the screen."""


async def tail(
    *,
    from_start: Annotated[bool, Parameter(help="Start with the first event of the stream.", negative=())] = False,
    until_end: Annotated[bool, Parameter(help="Stop after the event that is last now.", negative=())] = False,
    subject: Annotated[str, Parameter(help="Only subjects that match, such as `noetl.events.playbook.*`.")] = ">",
    nats: Nats = None,
    json: Annotated[bool, Parameter(help="Print each body unchanged, one per line.", negative=())] = False,
) -> int:
    """
    Print events as the stream stores them, without consuming them, until SIGTERM or SIGINT.

    After an outage of NATS the output resumes behind the last event; after the stream was recreated, with its first
    one.

    Example: `noetl-events tail --from-start --json > run.jsonl`
    """
    settings = read_settings(nats)
    async with Connection(settings.connect) as connection:
        if until_end:
            # New messages are those after the present end, so without from_start there is none before it.
            span = Span(stream=settings.stream.name, subject=subject, end=None if from_start else 0)
            messages = read_span(connection, span)
        else:
            messages = follow(connection, settings.stream.name, subject=subject, from_start=from_start)
        await run_until_stopped(_print(messages, as_json=json))
    return 0


async def _print(messages: AsyncGenerator[Message, None], *, as_json: bool) -> None:
    console = Console()
    async with aclosing(messages):
        async for message in messages:
            if is_of_no_publisher(message):
                continue
            if as_json:
                sys.stdout.buffer.write(message.data + b"\n")
                sys.stdout.buffer.flush()
            else:
                console.print(_line(message.data), highlight=False, soft_wrap=True)


def _line(data: bytes) -> str:
    try:
        event = decode(data)
    except MalformedEvent as exc:
        return f"[red]malformed[/red] {escape(_printable(str(exc)[:_MAX_SHOWN]))}"
    fields = (event.event_type, event.step, event.status, event.worker_id or "")
    shown = "  ".join(_printable(field[:_MAX_SHOWN]) for field in fields)
    return f"{event.created_at:%H:%M:%S.%f} {event.execution_id} {escape(shown)}"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
