"""The values: who does what, and what that takes on NATS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import msgspec

from consumers.destinations import destinations_of
from noetl_events.jetstream.declarations import DEAD_LETTERS, TRIALS, ConsumerDeclaration, StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions

if TYPE_CHECKING:
    from typing import Self

    from consumers.settings import Settings

Role: TypeAlias = Literal["publisher", "projector", "gateway", "admin"]


class Right(NamedTuple):
    """
    A subject that has to be allowed.

    Args:
        subject: as a pattern of NATS.
        why: what fails without it.
        queue: of a subscription, the only queue group it may join; empty for no group.

    """

    subject: str
    why: str
    queue: str = ""


class Rights(NamedTuple):
    """Everything a role may do on NATS."""

    publish: tuple[Right, ...]
    subscribe: tuple[Right, ...]


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a role works with.

    Args:
        stream: of the events.
        consumers: that the projector reads.
        durable: the name they begin with.
        inbox_prefix: of the client; one that no other role has keeps replies private.
        spool: whether the publisher watches the stream for a `SpoolSink`.
        api: subject that requests to JetStream begin with.
        dead_letters: the stream they are kept in.
        trials: the stream of a projector's notes.
        presence: what the subjects begin with on which replicas share lanes.

    """

    stream: StreamDeclaration = StreamDeclaration()
    dead_letters: StreamDeclaration = DEAD_LETTERS
    trials: StreamDeclaration = TRIALS
    presence: str = "noetl.presence"
    consumers: tuple[ConsumerDeclaration, ...] = ()
    durable: str = "noetl_projector"
    inbox_prefix: str = ConnectOptions().inbox_prefix
    spool: bool = False
    api: str = ConnectOptions().api

    @classmethod
    def of(cls, settings: Settings, *, spool: bool = False) -> Self:
        """
        Return what a process with these settings works with, as `Service` does.

        Raises:
            ValueError: a destination is given twice.

        """
        projector, stream = settings.projector, settings.stream
        consumers = [
            consumer
            for destination in destinations_of(projector.to or [""], projector.durable)
            for consumer in destination.consumers(
                stream,
                ack_wait=projector.ack_wait,
                max_ack_pending=projector.max_ack_pending,
                pin_ttl=projector.pin_ttl,
                exclusive=projector.standby,
            )
        ]
        return cls(
            stream=stream,
            dead_letters=settings.dead_letters,
            trials=settings.trials,
            presence=projector.presence,
            consumers=tuple(consumers),
            durable=projector.durable,
            inbox_prefix=settings.connect.inbox_prefix,
            spool=spool,
            api=settings.connect.api,
        )
