"""Declarations of streams and consumers, their subjects, and their form in the API of JetStream."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta


def includes(pattern: str, subject: str) -> bool:
    """Return True if *pattern* matches every subject that *subject* matches; both may have wildcards."""
    wanted, given = pattern.split("."), subject.split(".")
    for place, word in enumerate(wanted):
        if word == ">":
            return len(given) > place
        if place >= len(given) or given[place] == ">" or word not in {"*", given[place]}:
            return False
    return len(given) == len(wanted)


GROUP: Final = "projector"

EVENTS_STREAM: Final = "noetl_events"
EVENTS_SUBJECTS: Final = "noetl.events.>"
DEAD_STREAM: Final = "noetl_events_dead"
DEAD_SUBJECTS: Final = "noetl.dead.>"
TRIALS_STREAM: Final = "noetl_events_trials"
TRIALS_SUBJECTS: Final = "noetl.trials.>"

DAY: Final = 86_400.0
DUPLICATE_WINDOW: Final = 120.0
MAX_ACK_PENDING: Final = 20_000

StreamKind: TypeAlias = Literal["events", "dead letters", "trials"]


class StreamDeclaration(msgspec.Struct, frozen=True, kw_only=True):
    """
    A declared stream: file storage, limits retention, direct gets, and batch publishing if the server supports it.

    Args:
        name: name of the stream.
        subjects: subjects that it stores.
        max_age: seconds a message is kept; 0 for ever.
        max_bytes: most bytes of the whole stream, which refuses further messages; -1 without a limit.
        max_per_subject: number of last messages kept for each subject; -1 without a limit.
        duplicate_window: seconds a `Nats-Msg-Id` is remembered; each costs the server about 230 bytes.
        replicas: number of replicas: 1, 3 or 5.
        partitions: number of partitions for the subjects, by their first free token, which must be the execution's id
            to keep the order within an execution: `noetl.events.<execution_id>.call.done` is stored as
            `noetl.events.<partition>.<execution_id>.call.done`.  0 leaves subjects as they are.
        kind: kind of its messages, which decides the weight of a difference on the server.

    """

    name: str = EVENTS_STREAM
    subjects: tuple[str, ...] = (EVENTS_SUBJECTS,)
    max_age: float = DAY
    max_bytes: int = -1
    max_per_subject: int = -1
    duplicate_window: float = DUPLICATE_WINDOW
    replicas: int = 1
    partitions: Annotated[int, Meta(ge=0, le=1_000)] = 0
    kind: StreamKind = "events"

    @property
    def prefix(self) -> str:
        """First tokens of the subjects: the first subject without the wildcard at its end."""
        return self.subjects[0].removesuffix(".>")

    @property
    def template(self) -> str:
        """Subject template for publishing an event; a partitioned stream maps the part after the prefix."""
        return f"{self.prefix}.{{execution_id}}.{{event_type}}" if self.partitions else f"{self.prefix}.{{event_type}}"

    def partition_filters(self, partition: int) -> tuple[str, ...]:
        """Return the subjects of partition *partition*; partition 0 also has subjects without a second token."""
        heads = [subject.removesuffix(">") for subject in self.subjects]
        return tuple(
            [f"{head}{partition}.>" for head in heads] + ([f"{head}*" for head in heads] if partition == 0 else [])
        )


class ConsumerDeclaration(msgspec.Struct, frozen=True, kw_only=True):
    """
    A declared durable pull consumer: all messages from the first one, acknowledged one by one, redelivered for ever.

    Args:
        name: name of the durable consumer.
        stream: name of its stream.
        filter_subjects: subjects of its messages; empty for all.
        ack_wait: seconds until an unacknowledged message is delivered again.
        max_ack_pending: most messages delivered and not acknowledged, over all replicas.
        partitions: number of partitions that the stream must have, if the consumer reads one of them.
        exclusive: True to serve one client at a time in stream order, and another one when that one is gone.
        pin_ttl: seconds without a request after which the server unpins the client of an exclusive consumer.

    """

    name: str
    stream: str = EVENTS_STREAM
    filter_subjects: tuple[str, ...] = ()
    ack_wait: float = 30.0
    max_ack_pending: int = MAX_ACK_PENDING
    partitions: int = 0
    exclusive: bool = False
    pin_ttl: float = 10.0


DEAD_LETTERS: Final = StreamDeclaration(
    name=DEAD_STREAM, subjects=(DEAD_SUBJECTS,), max_age=30 * DAY, kind="dead letters"
)
TRIALS: Final = StreamDeclaration(name=TRIALS_STREAM, subjects=(TRIALS_SUBJECTS,), max_per_subject=1, kind="trials")
