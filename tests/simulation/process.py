"""A life of a simulated projector."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from consumers.dead_letters import DeadLetters
from consumers.projector.crash_records import CrashRecords
from consumers.projector.projector import Projector
from noetl_events.jetstream.consume.puller import Puller
from noetl_events.jetstream.errors import ConsumerMissing, NatsUnavailable
from noetl_events.jetstream.message import delivery_of
from noetl_events.retry import Backoff
from noetl_events.sinks.fanout import FanoutSink
from tests.simulation.destination import TableSink
from tests.simulation.network import SimConnection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from random import Random

    from noetl_events.jetstream.consume.position import StreamEnd
    from noetl_events.jetstream.consumers import ConsumerInfo
    from noetl_events.jetstream.declarations import ConsumerDeclaration
    from tests.simulation.destination import Keeping, Table
    from tests.simulation.network import Server

LOOK: Final = 3.0
"""The seconds between two checks of the consumer."""

_GIVEN_BACK: Final = 1.0
"""The seconds after which the crash record of an undecided test is cleared, if crash records can be written."""


class Process:
    """
    A projector from its start to its end.

    Args:
        name: name of this life.
        server: simulated server.
        declared: declaration of the consumer.
        tables: destinations of the events.
        draw: random generator of the run.
        on_fatal: callback with the process for an event that kills it.
        end_of_stream: function that returns the end of the stream.

    """

    def __init__(
        self,
        name: str,
        server: Server,
        declared: ConsumerDeclaration,
        tables: Sequence[Table],
        draw: Random,
        on_fatal: Callable[[Process], None],
        end_of_stream: Callable[[SimConnection], Awaitable[StreamEnd]],
    ) -> None:
        self.connection = SimConnection(server, name)
        self.sinks = [TableSink(table, lambda: on_fatal(self), self._has_accepted) for table in tables]
        self.projector = Projector(
            Puller(
                self.connection,  # type: ignore[arg-type]
                declared,
                max_messages=draw.choice([4, 16, 60]),
                check_stream=lambda: end_of_stream(self.connection),
            ),
            FanoutSink(self.sinks) if len(self.sinks) > 1 else self.sinks[0],
            DeadLetters(self.connection),  # type: ignore[arg-type]
            CrashRecords(self.connection),  # type: ignore[arg-type]
            batch_size=draw.choice([1, 5, 12, 40]),
            backoff=Backoff(initial=0.1, maximum=2.0),
        )
        self.looked_at = 0.0
        """The time of the consumer's last check."""

        self.is_told = False
        """True if the process was told to exit at once."""

        self.task = asyncio.create_task(self.projector.run())

    def watch(
        self,
        end_of_stream: Callable[[SimConnection], Awaitable[StreamEnd]],
        show: Callable[[SimConnection, ConsumerDeclaration], Awaitable[ConsumerInfo]],
    ) -> None:
        """Check stream and consumer every few seconds, until the process ends."""

        async def look() -> None:
            while not self.task.done():
                with suppress(NatsUnavailable):
                    end = await end_of_stream(self.connection)
                    try:
                        info = await show(self.connection, self.projector.consumer)
                    except ConsumerMissing:
                        self.projector.puller.check(None)
                    else:
                        self.projector.puller.check(info, end=end.last)
                        self.looked_at = asyncio.get_running_loop().time()
                await asyncio.sleep(LOOK)

        looking = asyncio.create_task(look())
        self.task.add_done_callback(lambda _: looking.cancel())

    def _has_accepted(self) -> bool:
        return self.projector._quarantine._accepted is not None

    def leave(self) -> None:
        """Exit at once, as at a second signal."""
        self.is_told = True
        self.task.cancel()

    @property
    def stored_ns(self) -> set[int]:
        """The time at which the stream stored each message in flight."""
        return {delivery_of(message).stored_ns for message in self.projector._in_flight}

    def has_given_back(self, keeping: Keeping) -> bool:
        """Return true if an outage interrupted the last test, long enough ago for its crash record to be cleared."""
        given_back = max(sink.given_back_at for sink in self.sinks)
        is_idle = not any(sink.is_writing for sink in self.sinks) and self.connection not in keeping.noting
        return is_idle and keeping.failed_at < given_back < asyncio.get_running_loop().time() - _GIVEN_BACK
