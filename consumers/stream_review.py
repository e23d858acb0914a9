"""Streams compared with what a projector needs: what is wrong is told once, and again when it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from noetl_events.jetstream.api import server_version
from noetl_events.jetstream.errors import Refused, StreamDrift
from noetl_events.jetstream.stream_config import deviations

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration
    from noetl_events.jetstream.stream_config import Deviation
    from noetl_events.jetstream.streams import FoundStream

log = structlog.get_logger()


class StreamReview:
    """
    What is not as declared of several streams.

    Args:
        connection: to NATS; it stays open.

    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._found: dict[str, list[Deviation]] = {}

    @property
    def fault(self) -> str:
        """Why events may be lost, or are not stored; empty if nothing is known to be wrong."""
        return "; ".join(
            f"stream {name}: {deviation}"
            for name, found in self._found.items()
            for deviation in found
            if deviation.weight in ("refused", "unsafe")
        )

    async def note(self, declared: StreamDeclaration, found: FoundStream) -> None:
        """
        Compare a stream, as it was *found*, and tell what has changed since the last time.

        Raises:
            StreamDrift: it must not be read, and never could be since the start.
            Refused: it must not be read any more.
            NatsUnavailable: the server's version is not known now.

        """
        deviating = deviations(declared, found.config, version=await server_version(self._connection))
        before = self._found.get(declared.name)
        self._found[declared.name] = deviating
        _tell(declared.name, before or [], deviating)
        if refused := [deviation for deviation in deviating if deviation.weight == "refused"]:
            if before is None:
                raise StreamDrift(declared.name, refused)
            raise Refused(f"stream {declared.name} was changed: {'; '.join(map(str, refused))}")


def _tell(name: str, before: list[Deviation], now: list[Deviation]) -> None:
    for deviation in now:
        if deviation in before:
            continue
        words = {"stream": name, "field": deviation.field, "value": deviation.actual, "reason": deviation.meaning}
        match deviation.weight:
            case "refused" | "unsafe":
                log.error("stream.unsafe", **words)
            case "weaker" | "lacking":
                log.warning("stream.differs", **words)
            case _:
                log.info("stream.differs", **words)
    fields = {deviation.field for deviation in now}
    for deviation in before:
        if deviation.field not in fields:
            log.info("stream.as_declared", stream=name, field=deviation.field)
