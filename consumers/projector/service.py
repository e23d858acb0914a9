"""A projector process: the consumers of each destination, and a sink and a projector for each consumer."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from consumers.dead_letters import DeadLetters
from consumers.health import report
from consumers.projector.crash_records import CrashRecords
from consumers.projector.destinations import destinations_of
from consumers.projector.max_deliveries import MaxDeliveriesMonitor
from consumers.projector.partitions import PartitionAssignment
from consumers.projector.progress import Progress
from consumers.projector.projector import Projector
from consumers.projector.stream_monitor import IdentityRecord, StreamMonitor
from consumers.tasks import Supervisor
from noetl_events.jetstream.consume.puller import Puller
from noetl_events.jetstream.presence import Presence
from noetl_events.sink import open_sink

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from consumers.health import Report
    from consumers.settings import Settings
    from noetl_events.jetstream.advisories import MaxDeliveries
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import ConsumerDeclaration
    from noetl_events.sink import EventSink


class Channel(NamedTuple):
    """A consumer and the sink that receives its events."""

    consumer: ConsumerDeclaration
    sink: EventSink


class Service:
    """
    The service behind `noetl-events project`.

    Args:
        settings: settings of the process.
        connection: connection to NATS; the caller closes it.
        to: URLs of the destinations.
        durable: name of the consumer, or the prefix of several consumers' names.
        standby: read in the order of the stream, by one replica at a time, with the remaining ones on standby.
        opener: function that opens the sink of a URL.

    Raises:
        UnknownSink: a URL names no sink.
        ValueError: a URL is given twice, or its sink refuses it.

    """

    def __init__(
        self,
        settings: Settings,
        connection: Connection,
        to: Sequence[str],
        *,
        durable: str,
        standby: bool = False,
        opener: Callable[[str], EventSink] = open_sink,
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._dead_letters = DeadLetters(
            connection, prefix=settings.dead_letters.prefix, stream=settings.dead_letters.name
        )
        self._crash_records = CrashRecords(connection, settings.trials)
        self.channels = [
            Channel(consumer, opener(destination.url))
            for destination in destinations_of(to, durable)
            for consumer in destination.consumers(
                settings.stream,
                ack_wait=settings.projector.ack_wait,
                max_ack_pending=settings.projector.max_ack_pending,
                pin_ttl=settings.projector.pin_ttl,
                exclusive=standby,
            )
        ]
        self._assignment = self._assign_partitions(durable) if settings.stream.partitions else None
        self.progress = {channel.consumer.name: Progress() for channel in self.channels}
        """The progress of each consumer, which survives the projectors of its partition."""

        self.stream_monitor = StreamMonitor(
            connection,
            settings.stream,
            lambda: self.projectors,
            identity_record=IdentityRecord(connection, settings.trials, self.channels[0].consumer),
            written=(settings.dead_letters, settings.trials),
        )
        self._projectors = [] if self._assignment else [self._projector(channel) for channel in self.channels]
        self.worker = Supervisor(
            [self._assignment] if self._assignment else self._projectors,
            background=[
                self.stream_monitor.run,
                MaxDeliveriesMonitor(
                    connection,
                    self._dead_letters,
                    stream=settings.stream.name,
                    own=[*self.progress],
                    on_own=self._deliver_again,
                    others=settings.projector.watch_max_deliver,
                ).run,
            ],
        )

    @property
    def projectors(self) -> list[Projector]:
        """The projectors that run now."""
        return self._assignment.projectors if self._assignment else self._projectors

    def report(self) -> Report:
        """Return the health of the projectors."""
        stall_after = self._settings.projector.stall_after
        return report(
            self.projectors,
            self._connection,
            now=time.monotonic(),
            stall_after=stall_after,
            fault=self.stream_monitor.fault,
        )

    def follow(self, settings: Settings) -> None:
        """Apply *settings* from the next batch on; only reloadable settings may differ."""
        self._settings = settings
        for projector in self.projectors:
            projector.batch_size = settings.projector.batch_size

    async def aclose(self) -> None:
        """Close the sinks."""
        for channel in self.channels:
            await channel.sink.aclose()

    def _assign_partitions(self, durable: str) -> PartitionAssignment:
        name = f"{socket.gethostname()}:{os.getpid()}"
        # Replicas form a group only if they have the same set of consumers.
        group = hashlib.blake2b(" ".join(channel.consumer.name for channel in self.channels).encode(), digest_size=4)
        head = f"{self._settings.projector.presence}.{self._settings.stream.name}"
        subject = f"{head}.{durable}.{group.hexdigest()}"
        presence = Presence(self._connection, subject, name=name)
        return PartitionAssignment([partial(self._projector, channel) for channel in self.channels], presence)

    def _deliver_again(self, advisory: MaxDeliveries) -> None:
        """Redeliver a message that exceeded `max_deliver` of one of this process's consumers."""
        for projector in self.projectors:
            if projector.consumer.name == advisory.consumer:
                reason = f"the consumer gave up on message {advisory.stream_seq}: max_deliver was edited"
                projector.puller.restart(reason, start=advisory.stream_seq)

    def _projector(self, channel: Channel) -> Projector:
        progress = self.progress[channel.consumer.name]
        progress.reset()
        return Projector(
            Puller(
                self._connection,
                channel.consumer,
                check_stream=partial(self.stream_monitor.check, channel.consumer.name),
            ),
            channel.sink,
            self._dead_letters,
            self._crash_records,
            batch_size=self._settings.projector.batch_size,
            progress=progress,
        )
