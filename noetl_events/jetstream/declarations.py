"""Declarations of streams and consumers, their subjects, and their form in the API of JetStream."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta


def includes(pattern: str, subject: str) -> bool:
    """Return whether *pattern* matches everything that *subject* does; wildcards of both count."""
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
    A stream as it shall be: files, limits retention, direct gets, batch publishing where the server has it.

    Args:
        name: of the stream.
        subjects: it stores.
        max_age: seconds a message is kept; 0 for ever.
        max_bytes: of the whole stream, which refuses what does not fit; -1 without a limit.
        max_per_subject: messages kept of each subject, the last ones; -1 without a limit.
        duplicate_window: seconds a `Nats-Msg-Id` is remembered; each costs the server about 230 bytes.
        replicas: 1, 3 or 5.
        partitions: lanes the subjects are spread over by their first free token, which must be the execution's id for
            order within an execution: `noetl.events.<execution_id>.call.done` is kept as
            `noetl.events.<lane>.<execution_id>.call.done`.  0 leaves subjects as they are.
        kind: what its messages are, which decides what a difference on the server means.

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
        """The subjects' first tokens: all but the wildcard at the end of the first one."""
        return self.subjects[0].removesuffix(".>")

    @property
    def template(self) -> str:
        """The subject an event is published to; a partitioned stream spreads what follows the prefix."""
        return f"{self.prefix}.{{execution_id}}.{{event_type}}" if self.partitions else f"{self.prefix}.{{event_type}}"

    def lane_filters(self, lane: int) -> tuple[str, ...]:
        """Return the subjects of *lane*; the first one also has those without a second token, which go to no lane."""
        heads = [subject.removesuffix(">") for subject in self.subjects]
        return tuple([f"{head}{lane}.>" for head in heads] + ([f"{head}*" for head in heads] if lane == 0 else []))


class ConsumerDeclaration(msgspec.Struct, frozen=True, kw_only=True):
    """
    A durable pull consumer as it shall be: every message from the first, acknowledged one by one, delivered for ever.

    Args:
        name: of the durable.
        stream: it reads.
        filter_subjects: of the messages it wants; none for all.
        ack_wait: seconds until an unacknowledged message is delivered again.
        max_ack_pending: messages delivered and not acknowledged, over all replicas.
        partitions: lanes its stream must have, where it reads one of them.
        exclusive: it serves one puller at a time, in the order of the stream, and another when that one is gone.
        pin_ttl: seconds without a request after which a puller of an exclusive consumer counts as gone.

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
