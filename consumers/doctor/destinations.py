"""The Postgres destinations, each with a connection as its sink would open it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from noetl_events.jetstream.options import redacted
from noetl_events.sink import SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from consumers.sinks.postgres import PostgresSink

_SCHEMES = ("postgres", "postgresql")


def postgres_sinks(urls: Iterable[str]) -> Iterator[tuple[str, PostgresSink]]:
    """Yield each that is a Postgres, by its redacted URL; raises ValueError if a URL is refused."""
    for url in urls:
        if url.partition(":")[0] in _SCHEMES:
            from consumers.sinks.postgres import PostgresSink

            yield redacted(url), PostgresSink.from_url(url)


async def opened_postgres(urls: Iterable[str]) -> AsyncIterator[tuple[str, PostgresSink, Any]]:
    """Yield each that can be reached, with a connection that is closed afterwards."""
    for where, sink in postgres_sinks(urls):
        with suppress(SinkUnavailable):
            connection = await sink.connect()
            try:
                yield where, sink, connection
            finally:
                connection.terminate()
