"""
Roles and the rights of each on NATS.

Each is there because the role's own code uses that subject; `tests/permissions` runs every role with exactly these, and
finds each of them used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

import msgspec

from consumers.projector.destinations import destinations_of
from noetl_events.jetstream.declarations import DEAD_LETTERS, TRIALS, ConsumerDeclaration, StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
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


_EXHAUSTED_GROUP: Final = "noetl_exhausted"


def rights_of(role: Role, work: Work) -> Rights:
    """Return what *role* needs for *work*."""
    return _ROLES[role](work)


def _publisher(work: Work) -> Rights:
    spool = (
        Right(f"{work.api}.STREAM.NAMES", "a spool finds the stream it watches"),
        Right(f"{work.api}.STREAM.INFO.{work.stream.name}", "a spool sees whether the stream lost its end"),
    )
    return Rights((*_events(work), *(spool if work.spool else ())), _replies(work))


def _projector(work: Work) -> Rights:
    stream = work.stream.name
    publish = [
        *(right for consumer in work.consumers for right in _consumer(work, consumer)),
        Right(f"{work.api}.STREAM.INFO.{stream}", "to see that the stream is still the same"),
        Right(f"{work.api}.STREAM.INFO.{work.dead_letters.name}", "to see that dead letters are kept"),
        Right(f"{work.api}.STREAM.INFO.{work.trials.name}", "to see that its notes are kept"),
        Right(f"{work.api}.CONSUMER.INFO.{stream}.*", "to see whose consumer gave up on a message"),
        Right(f"{work.api}.STREAM.MSG.GET.{stream}", "to bury what a consumer of another program gave up on"),
        Right(f"{work.dead_letters.prefix}.*", "to bury what the destination will never take"),
    ]
    advisories = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}"
    subscribe = [
        *_replies(work),
        Right(f"{advisories}.*", "to hear of what a consumer gave up on", _EXHAUSTED_GROUP),
        *(Right(f"{advisories}.{each.name}", "to hear of what our own gave up on") for each in work.consumers),
    ]
    if work.stream.partitions:
        presence = Right(f"{work.presence}.{stream}.{work.durable}.*", "replicas share the lanes")
        publish.append(presence)
        subscribe.append(presence)
    return Rights(tuple(publish), tuple(subscribe))


def _consumer(work: Work, consumer: ConsumerDeclaration) -> Iterator[Right]:
    place = f"{consumer.stream}.{consumer.name}"
    trials = work.trials
    notes = f"{trials.prefix}.{place}.*"
    yield Right(f"{work.api}.CONSUMER.INFO.{place}", "to compare the consumer, and see how far it is")
    yield Right(f"{work.api}.CONSUMER.DURABLE.CREATE.{place}", "to create the consumer, also after it was deleted")
    yield Right(f"{work.api}.CONSUMER.MSG.NEXT.{place}", "to ask for messages")
    yield Right(f"$JS.ACK.{place}.>", "to acknowledge them")
    yield Right(f"$JS.ACK.*.*.{place}.>", "to acknowledge them where the server uses acks of version 2")
    yield Right(f"{work.api}.CONSUMER.RESET.{place}", "to set the consumer back behind the last acknowledgement")
    if consumer.exclusive:
        yield Right(f"{work.api}.CONSUMER.UNPIN.{place}", "who stops lets another take over at once")
    yield Right(notes, "to note what may kill the process, and which stream it reads")
    yield Right(f"{work.api}.DIRECT.GET.{trials.name}.{notes}", "to read those notes")


def _gateway(work: Work) -> Rights:
    stream = work.stream.name
    publish = (
        *_events(work),
        *_reading(work, stream),
        *_reading(work, work.dead_letters.name),
        Right(f"{work.api}.CONSUMER.LIST.{stream}", "to show who reads the stream"),
    )
    return Rights(publish, _replies(work))


def _admin(work: Work) -> Rights:
    stream, dead, trials = work.stream.name, work.dead_letters.name, work.trials.name
    api = work.api
    publish = (
        *(Right(f"{api}.STREAM.CREATE.{name}", "`stream ensure`") for name in (stream, dead, trials)),
        *(Right(f"{api}.STREAM.UPDATE.{name}", "`stream ensure --upgrade`") for name in (stream, dead, trials)),
        Right(f"{api}.STREAM.INFO.{trials}", "`stream show`"),
        *_reading(work, stream),
        *_reading(work, dead),
        Right(f"{api}.STREAM.MSG.GET.{dead}", "`dead show`"),
        Right(f"{api}.STREAM.MSG.DELETE.{dead}", "`dead purge`, and `dead retry` once a letter is sent"),
        *_events(work),
    )
    return Rights(publish, _replies(work))


def _events(work: Work) -> tuple[Right, ...]:
    return tuple(Right(subject, "to publish events") for subject in work.stream.subjects)


def _reading(work: Work, stream: str) -> tuple[Right, ...]:
    # A consumer of our own has a name of the server's choice: there is no narrower pattern.
    return (
        Right(f"{work.api}.STREAM.INFO.{stream}", "to see where the stream begins and ends"),
        Right(f"{work.api}.CONSUMER.CREATE.{stream}", "to read it with a consumer of our own"),
        Right(f"{work.api}.CONSUMER.MSG.NEXT.{stream}.*", "to ask for messages"),
        Right(f"{work.api}.CONSUMER.INFO.{stream}.*", "to see whether the rest was deleted meanwhile"),
        Right(f"{work.api}.CONSUMER.DELETE.{stream}.*", "to take the consumer away in the end"),
    )


def _replies(work: Work) -> tuple[Right, ...]:
    return (Right(f"{work.inbox_prefix}.>", "to hear the answers"),)


_ROLES: Final[Mapping[Role, Callable[[Work], Rights]]] = {
    "publisher": _publisher,
    "projector": _projector,
    "gateway": _gateway,
    "admin": _admin,
}
