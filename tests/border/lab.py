"""A server with configurations edited by hand while projectors run, and the projectors' reactions."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from nats.errors import Error as NatsError

from consumers.projector.service import Service
from consumers.settings import ProjectorSettings, Settings
from noetl_events import encode
from noetl_events.jetstream.declarations import DEAD_LETTERS, StreamDeclaration
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.retry import Backoff
from noetl_events.sinks.memory import MemorySink
from noetl_events.testing import make_event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from nats.aio.msg import Msg

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamKind

LOOK: Final = 0.5
"""Seconds between two checks of consumer and stream; a real process checks every ten."""

_QUICK: Final = Backoff(initial=0.05, maximum=0.5)
_numbers = count()


class Lab:
    """
    The streams of one server.

    Args:
        connection: connection to NATS; stays open.

    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.requests: Counter[str] = Counter()
        """The pull requests seen, by stream."""

    async def count_requests(self) -> None:
        """Count pull requests from now on."""

        async def note(message: Msg) -> None:
            self.requests[message.subject.split(".")[5]] += 1

        client = await self.connection.client()
        await client.subscribe(self.connection.api("CONSUMER.MSG.NEXT.>"), cb=note)
        await client.flush()

    async def api(self, request: str, body: object = None) -> dict[str, Any]:
        """Return the answer of JetStream's API to *request*."""
        client = await self.connection.client()
        data = b"" if body is None else json.dumps(body).encode()
        answer: dict[str, Any] = json.loads((await client.request(self.connection.api(request), data, timeout=60)).data)
        return answer

    async def stream(self, *, partitions: int = 0, kind: StreamKind = "events") -> StreamDeclaration:
        """Return a new stream, as declared."""
        name = f"border_{next(_numbers)}"
        declared = StreamDeclaration(name=name, subjects=(f"{name}.>",), partitions=partitions, kind=kind)
        await ensure_stream(self.connection, declared)
        return declared

    async def consumer_config(self, stream: str) -> dict[str, Any]:
        """Return the configuration of the durable on *stream*."""
        config: dict[str, Any] = (await self.api(f"CONSUMER.INFO.{stream}.{durable_of(stream)}"))["config"]
        return config

    async def make_consumer(self, stream: str, config: dict[str, Any], *, action: str = "create") -> str:
        """Create or update the durable, as *action* says; return the server's refusal."""
        body = {"stream_name": stream, "config": _set(config), "action": action}
        answer = await self.api(f"CONSUMER.CREATE.{stream}.{durable_of(stream)}", body)
        return str(answer.get("error", {}).get("description", ""))

    async def delete_consumer(self, stream: str) -> None:
        """Delete the durable."""
        await self.api(f"CONSUMER.DELETE.{stream}.{durable_of(stream)}")


class Case:
    """A stream, its projector, and the events published to it."""

    def __init__(self, lab: Lab, stream: StreamDeclaration, *, durable: str = "", standby: bool = False) -> None:
        self.lab = lab
        self._standby = standby
        self.durable = durable or durable_of(stream.name)
        self.stream = stream
        self.sink = MemorySink()
        self.error: BaseException | None = None
        """The exception that ended the projector, if any."""

        self.dead_letters = DEAD_LETTERS

        self._tail = ".x" if stream.partitions else ""
        self._ids = count(1)
        self._published = 0
        self._service: Service | None = None

    async def publish(self, events: int) -> None:
        """Store *count* more events, on two subjects in turn."""
        client = await self.lab.connection.client()
        for number in [next(self._ids) for _ in range(events)]:
            body = encode(make_event(number))
            await client.request(f"{self.stream.name}.{'ab'[number % 2]}{self._tail}", body, timeout=60)
            self._published += 1

    @property
    def is_stored(self) -> bool:
        """True if every published event is stored."""
        return len({event.event_id for event in self.sink.events}) == self._published

    @property
    def is_ready(self) -> bool:
        """True if the projector reports ready."""
        return self._service is not None and self.error is None and self._service.report().ready

    @property
    def is_alive(self) -> bool:
        """True if the projector's liveness check passes."""
        return self._service is not None and self.error is None and self._service.report().alive

    @property
    def refused(self) -> int:
        """The requests that the server has refused."""
        return sum(progress.refused for progress in self._service.progress.values()) if self._service else 0

    @property
    def buried(self) -> int:
        """The number of dead letters."""
        return sum(progress.dead_letters for progress in self._service.progress.values()) if self._service else 0

    @property
    def in_flight(self) -> int:
        """The number of messages received and not acknowledged."""
        return sum(projector.in_flight for projector in self._service.projectors) if self._service else 0

    @property
    def has_seen_edit(self) -> bool:
        """True if a check has found the consumer edited, and the projector has not reacted yet."""
        return self._service is not None and any(each.puller._state.edited for each in self._service.projectors)

    @property
    def reason(self) -> str:
        """The reason that the projector reports."""
        if self.error is not None:
            return str(self.error)
        return (
            "; ".join(health.reason for health in self._service.report().projectors.values()) if self._service else ""
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the projector, and stop it in the end."""
        durable, options = self.durable, self.lab.connection.options
        projector = ProjectorSettings(durable=durable)
        settings = Settings(connect=options, stream=self.stream, projector=projector, dead_letters=self.dead_letters)
        self._service = service = Service(
            settings,
            self.lab.connection,
            ["memory:"],
            durable=durable,
            standby=self._standby,
            opener=lambda _: self.sink,
        )
        service.stream_monitor._interval = LOOK
        for each in service.projectors:
            each._hold._backoff = _QUICK
        task = asyncio.create_task(service.worker.run())
        task.add_done_callback(self._note_end)
        try:
            yield
            await service.worker.stop()
            with suppress(ValueError):
                async with asyncio.timeout(180):
                    await task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, ValueError):
                await task

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self.error = None if task.cancelled() else task.exception()


async def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait up to *seconds* for *condition*, and return its result."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110  (no event reports the change)
                await asyncio.sleep(0.05)
    return condition()


async def gathered(runs: Iterable[Callable[[], Awaitable[None]]], *, at_once: int) -> list[str]:
    """Run *runs*, *at_once* at a time, and return the failures as text."""
    room = asyncio.Semaphore(at_once)

    async def run(each: Callable[[], Awaitable[None]]) -> str:
        async with room:
            try:
                await each()
            except (AssertionError, NatsError) as exc:
                return str(exc) or repr(exc)
        return ""

    return [failed for failed in await asyncio.gather(*map(run, runs)) if failed]


def durable_of(stream: str) -> str:
    """Return a durable name that contains *stream*, so that log lines show it."""
    return f"{stream}_projector"


def _set(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if value is not None}
