"""
Roles and the NATS permissions of each.

Each permission is required by the role's own code: `tests/permissions` runs every role with exactly these, and checks
that each is used.
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


class Permission(NamedTuple):
    """
    A permission: a subject that has to be allowed.

    Args:
        subject: subject, as a pattern of NATS.
        why: purpose of the permission.
        queue: the only queue group that a subscription may join; empty for no group.

    """

    subject: str
    why: str
    queue: str = ""


class Rights(NamedTuple):
    """All NATS permissions of a role."""

    publish: tuple[Permission, ...]
    subscribe: tuple[Permission, ...]


class RoleContext(msgspec.Struct, frozen=True, kw_only=True):
    """
    The streams, consumers and subjects that a role works with.

    Args:
        stream: stream of the events.
        consumers: consumers that the projector reads.
        durable: prefix of the consumers' names.
        inbox_prefix: prefix of the client's inbox; an exclusive one keeps replies private.
        spool: whether the publisher watches the stream for a `SpoolSink`.
        api: prefix of the subjects for JetStream requests.
        dead_letters: stream of the dead letters.
        trials: stream of a projector's crash records.
        presence: prefix of the subjects by which replicas share partitions.
        watch_max_deliver: whether the projector makes dead letters of messages that other consumers give up on.

    """

    stream: StreamDeclaration = StreamDeclaration()
    dead_letters: StreamDeclaration = DEAD_LETTERS
    trials: StreamDeclaration = TRIALS
    presence: str = "noetl.presence"
    consumers: tuple[ConsumerDeclaration, ...] = ()
    durable: str = "noetl_projector"
    inbox_prefix: str = ConnectOptions().inbox_prefix
    spool: bool = False
    watch_max_deliver: bool = False
    api: str = ConnectOptions().api

    @classmethod
    def of(cls, settings: Settings, *, spool: bool = False) -> Self:
        """
        Return the work of a process with these settings, as `Service` does.

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
            watch_max_deliver=projector.watch_max_deliver,
            api=settings.connect.api,
        )


_MAX_DELIVERIES_GROUP: Final = "noetl_exhausted"


def rights_of(role: Role, work: RoleContext) -> Rights:
    """Return the permissions that *role* needs for *work*."""
    return _ROLES[role](work)


def _publisher(work: RoleContext) -> Rights:
    spool = (
        Permission(f"{work.api}.STREAM.NAMES", "to find the stream that a spool watches"),
        Permission(f"{work.api}.STREAM.INFO.{work.stream.name}", "to detect that the stream lost its end, for a spool"),
    )
    return Rights((*_events(work), *(spool if work.spool else ())), _replies(work))


def _projector(work: RoleContext) -> Rights:
    stream = work.stream.name
    publish = [
        *(right for consumer in work.consumers for right in _consumer(work, consumer)),
        Permission(f"{work.api}.STREAM.INFO.{stream}", "to detect that the stream was recreated"),
        Permission(f"{work.api}.STREAM.INFO.{work.dead_letters.name}", "to check that the stream keeps dead letters"),
        Permission(f"{work.api}.STREAM.INFO.{work.trials.name}", "to check that the stream keeps crash records"),
        Permission(f"{work.api}.STREAM.MSG.GET.{stream}", "to read the age of the oldest message, and its identity"),
        Permission(f"{work.dead_letters.prefix}.*", "to store dead letters"),
    ]
    advisories = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}"
    subscribe = [
        *_replies(work),
        *(
            Permission(f"{advisories}.{each.name}", "to learn of messages that its own consumers gave up on")
            for each in work.consumers
        ),
    ]
    if work.watch_max_deliver:
        info = f"{work.api}.CONSUMER.INFO.{stream}.*"
        publish.append(Permission(info, "to identify a consumer that gave up on a message"))
        subscribe.append(
            Permission(f"{advisories}.*", "to learn of messages that other consumers gave up on", _MAX_DELIVERIES_GROUP)
        )
    if work.stream.partitions:
        presence = Permission(
            f"{work.presence}.{stream}.{work.durable}.*", "to share the partitions with other replicas"
        )
        publish.append(presence)
        subscribe.append(presence)
    return Rights(tuple(publish), tuple(subscribe))


def _consumer(work: RoleContext, consumer: ConsumerDeclaration) -> Iterator[Permission]:
    place = f"{consumer.stream}.{consumer.name}"
    trials = work.trials
    notes = f"{trials.prefix}.{place}.*"
    yield Permission(f"{work.api}.CONSUMER.INFO.{place}", "to check the consumer and its position")
    yield Permission(f"{work.api}.CONSUMER.DURABLE.CREATE.{place}", "to create the consumer, also after a deletion")
    yield Permission(f"{work.api}.CONSUMER.MSG.NEXT.{place}", "to pull messages")
    yield Permission(f"$JS.ACK.{place}.>", "to acknowledge messages")
    yield Permission(f"$JS.ACK.*.*.{place}.>", "to acknowledge messages with acks of version 2")
    yield Permission(f"{work.api}.CONSUMER.RESET.{place}", "to reset the consumer to its last acknowledgement")
    if consumer.exclusive:
        yield Permission(f"{work.api}.CONSUMER.UNPIN.{place}", "to let another replica take over at once")
    yield Permission(notes, "to store crash records and the stream's identity")
    yield Permission(f"{work.api}.DIRECT.GET.{trials.name}.{notes}", "to read crash records and the stream's identity")


def _gateway(work: RoleContext) -> Rights:
    stream = work.stream.name
    publish = (
        *_events(work),
        *_reading(work, stream),
        *_reading(work, work.dead_letters.name),
        Permission(f"{work.api}.CONSUMER.LIST.{stream}", "to list the consumers of the stream"),
    )
    return Rights(publish, _replies(work))


def _admin(work: RoleContext) -> Rights:
    stream, dead, trials = work.stream.name, work.dead_letters.name, work.trials.name
    api = work.api
    publish = (
        *(Permission(f"{api}.STREAM.CREATE.{name}", "`stream ensure`") for name in (stream, dead, trials)),
        *(Permission(f"{api}.STREAM.UPDATE.{name}", "`stream ensure --upgrade`") for name in (stream, dead, trials)),
        Permission(f"{api}.STREAM.INFO.{trials}", "`stream show`"),
        *_reading(work, stream),
        *_reading(work, dead),
        Permission(f"{api}.STREAM.MSG.GET.{dead}", "`dead show`"),
        Permission(f"{api}.STREAM.MSG.DELETE.{dead}", "`dead purge`, and `dead retry` after sending a letter"),
        *_events(work),
    )
    return Rights(publish, _replies(work))


def _events(work: RoleContext) -> tuple[Permission, ...]:
    return tuple(Permission(subject, "to publish events") for subject in work.stream.subjects)


def _reading(work: RoleContext, stream: str) -> tuple[Permission, ...]:
    # The server chooses the name of such a consumer, so no narrower pattern exists.
    return (
        Permission(f"{work.api}.STREAM.INFO.{stream}", "to read the first and last sequence"),
        Permission(f"{work.api}.CONSUMER.CREATE.{stream}", "to read the stream with a temporary consumer"),
        Permission(f"{work.api}.CONSUMER.MSG.NEXT.{stream}.*", "to pull messages"),
        Permission(f"{work.api}.CONSUMER.INFO.{stream}.*", "to detect that the remaining messages were deleted"),
        Permission(f"{work.api}.CONSUMER.DELETE.{stream}.*", "to delete the temporary consumer"),
    )


def _replies(work: RoleContext) -> tuple[Permission, ...]:
    return (Permission(f"{work.inbox_prefix}.>", "to receive replies"),)


_ROLES: Final[Mapping[Role, Callable[[RoleContext], Rights]]] = {
    "publisher": _publisher,
    "projector": _projector,
    "gateway": _gateway,
    "admin": _admin,
}
