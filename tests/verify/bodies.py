"""A stream, written into a destination and compared with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from consumers.backfill import Rebuild
from consumers.verification.verify import Verification, Verified
from noetl_events import encode, open_sink
from noetl_events.jetstream.consume.history import History, Span
from noetl_events.testing import make_event
from tests.jetstream.past import publish

if TYPE_CHECKING:
    from collections.abc import Iterable

    from noetl_events.jetstream.connection import Connection

# Destinations write these values in another form than they received.
REWRITTEN = (
    b'{"execution_id":7,"event_type":"t","step":"s\\n\\t\\\\","status":"\xc3\xa9\xf0\x9f\x8e\x89",'
    b'"created_at":"2026-05-31T05:14:15.1234567+02:00","event_id":11,"payload":'
    b'{"z":1.0,"a":[1e5,-0,-0.0,1e-7,0.10,12345678901234567890123456789,1e300,"\\u00e9\\/"],"z":2.50,"":null},'
    b'"meta":{"b":1,"a":{"d":1E2,"c":[]}}}'
)
EXTREME = (
    b'{"execution_id":7,"event_type":"","step":"","status":"","created_at":"9999-12-31T23:59:59.999999999Z",'
    b'"event_id":-9223372036854775808,"context":"null","meta":false}'
)
WITHOUT_ID = encode(make_event(None, worker_id=None, meta=None, context=None))

BODIES = [*(encode(make_event(number)) for number in range(1, 11)), REWRITTEN, WITHOUT_ID, EXTREME]


async def carry(connection: Connection, stream: str, url: str, bodies: Iterable[bytes] = BODIES) -> None:
    """Store *bodies* in the stream, and all its events at *url*."""
    await publish(connection, f"{stream}.x", bodies)
    sink = open_sink(url)
    async with History(connection, Span(stream=stream)) as history:
        await Rebuild(history, sink).run()
    await sink.aclose()


async def verify(connection: Connection, stream: str, url: str, *, dead: str = "", **span: Any) -> Verified:
    """Compare the stream, or a range of it, with the destination at *url*."""
    return await Verification(connection, Span(stream=stream, **span), url, dead_letters=dead or "no_such").run()


def sequences(found: Verified, kind: str) -> list[int | None]:
    """Return the sequences of the examples of *kind*."""
    return [example.sequence for example in found.examples.get(kind, [])]
