"""A client that sends unstorable messages: to the stream directly, to the gateway, and through a sink."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import aiohttp
from msgspec import structs

from noetl_events import EventsRejected, SinkUnavailable
from noetl_events.ids import Snowflake
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.publish.message import ID_HEADER
from noetl_events.jetstream.storage import store
from noetl_events.sinks.nats import SUBJECT_BY_EXECUTION, NatsSink
from tests.faults.campaign.events import event_of
from tests.faults.campaign.poison import MALFORMED, REFUSED

if TYPE_CHECKING:
    from collections import Counter

    from noetl_events import ExecutorEvent
    from noetl_events.jetstream.connection import Connection

_PAUSE = 0.5
_NODE = 1023
_POISON = MALFORMED | REFUSED
# The gateway answers so to a malformed body, or when it is overloaded.
_REFUSALS: Final = (422, 429)


class Poison(NamedTuple):
    """A poison message: the monotonic seconds of sending, and of the stream's acknowledgement."""

    at: float
    acknowledged: float | None = None


class PoisonProducer:
    """
    A client that sends different poison messages: one that was not acknowledged may be in the stream or not.

    Args:
        connection: connection to NATS; stays open.
        gateway: URL of the gateway without a proxy.
        headers: request headers with the token.
        complaints: counter of the bodies that were not refused.

    """

    def __init__(self, connection: Connection, gateway: str, headers: dict[str, str], complaints: Counter[str]) -> None:
        self.sent: dict[int, Poison] = {}
        """The sent messages by event id."""

        self._connection = connection
        self._gateway = gateway
        self._headers = headers
        self._complaints = complaints
        self._new_id = Snowflake(node=_NODE)
        self._chance = random.Random()

    async def run(self) -> None:
        """Send until cancelled."""
        sink = NatsSink(self._connection, subject=SUBJECT_BY_EXECUTION, timeout=2.0)
        async with aiohttp.ClientSession(headers=self._headers, timeout=aiohttp.ClientTimeout(2.0)) as session:
            while True:
                with suppress(NatsUnavailable):
                    await self._publish()
                with suppress(aiohttp.ClientError, OSError):
                    await self._post(session)
                with suppress(SinkUnavailable):
                    await self._emit(sink)
                await asyncio.sleep(_PAUSE)

    async def _publish(self) -> None:
        event = self._event()
        event_id = event.event_id or 0
        subject = SUBJECT_BY_EXECUTION.format(execution_id=event.execution_id, event_type=event.event_type)
        body = self._chance.choice([*_POISON.values()])(event)
        self.sent[event_id] = Poison(time.monotonic())
        await store(self._connection, subject, body, {ID_HEADER: str(event_id)})
        self.sent[event_id] = self.sent[event_id]._replace(acknowledged=time.monotonic())

    async def _post(self, session: aiohttp.ClientSession) -> None:
        kind = self._chance.choice([*MALFORMED])
        async with session.post(f"{self._gateway}/api/events", data=MALFORMED[kind](self._event())) as answer:
            if answer.status not in _REFUSALS:
                self._complaints[f"{kind}, posted: {answer.status}"] += 1

    async def _emit(self, sink: NatsSink) -> None:
        try:
            await sink.emit(structs.replace(self._event(), context={"share": float("nan")}))
        except EventsRejected:
            return
        self._complaints["NaN, emitted: taken"] += 1

    def _event(self) -> ExecutorEvent:
        return event_of(self._new_id(), self._new_id())
