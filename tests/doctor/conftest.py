"""A Postgres for the session, and the context of the checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from consumers.doctor.check import CheckContext
from consumers.permissions import RoleContext
from consumers.settings import ProjectorSettings, Settings
from noetl_events.jetstream.consumers import ensure_consumer
from noetl_events.jetstream.declarations import DEAD_LETTERS, TRIALS
from noetl_events.jetstream.streams import ensure_stream
from tests.sinks.conftest import database_url, plain_url, postgres_url

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration

__all__ = ["database_url", "plain_url", "postgres_url"]


def make_context(connection: Connection, stream: StreamDeclaration, **changes: Any) -> CheckContext:
    """Return the context of a sound projector, apart from *changes*."""
    to = changes.pop("to", ())
    projector = ProjectorSettings(to=tuple(to), durable="projector")
    settings = Settings(connect=connection.options, stream=stream, projector=projector)
    work = RoleContext.of(settings, spool=changes.pop("spool", False))
    fields: dict[str, Any] = {"role": "projector", "replay_window": 120.0} | changes
    return CheckContext(settings=settings, connection=connection, work=work, to=to, **fields)


@pytest.fixture
async def well(connection: Connection, stream: StreamDeclaration) -> CheckContext:
    """Return a context without a fault, on the server of this session."""
    for declared in (DEAD_LETTERS, TRIALS):
        await ensure_stream(connection, declared)
    context = make_context(connection, stream)
    await ensure_consumer(connection, context.work.consumers[0])
    return context
