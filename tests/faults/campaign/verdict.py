"""The verdict on a campaign: sets compared, in the manner of Jepsen."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from tests.faults.campaign.journal import Story
from tests.faults.campaign.poison_producer import Poison
from tests.faults.campaign.rows import StoredRow

Place: TypeAlias = Literal["prefix", "middle", "tail"]


class Deletion(NamedTuple):
    """
    A stream that was deleted and created again, in monotonic seconds.

    Args:
        unsettled: ids of the events in it that no projector had acknowledged, read at *began*.
        began: start of the deletion; events acknowledged later may have been in the old stream, too.
        healed: time from which the new stream exists.

    """

    unsettled: frozenset[int]
    began: float
    healed: float


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """
    The evidence at the end of a campaign.

    Args:
        story: attempted and acknowledged events of the workers.
        rows: rows in the order of their inserts.
        sums: checksum of each row as read back, by event id.
        expected: checksum of each event as emitted, by event id.
        dead: number of dead-lettered messages, by event id.
        poison: messages that must be dead letters if the stream had them, by event id.
        deletions: deletions of the stream.
        orders: ids by sequence, for each stream that existed.
        seen: sequences and ids that a reader of the live stream got.
        complaints: answers that should have been refused.
        deadlocks: number of deadlocks that Postgres reported.

    """

    story: Story
    rows: Sequence[StoredRow]
    sums: Mapping[int, int]
    expected: Mapping[int, int]
    dead: Mapping[int, int] = {}
    poison: Mapping[int, Poison] = {}
    deletions: tuple[Deletion, ...] = ()
    orders: tuple[Mapping[int, int], ...] = ()
    seen: AbstractSet[tuple[int, object]] = frozenset()
    complaints: Mapping[str, int] = {}
    deadlocks: int = 0


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """
    The sizes of the sets, and the ids of the faulty events.

    Args:
        lost: acknowledged events neither stored nor dead, with their place in the order of the acknowledgements.
        unprotected: lost events posted without a spool into a stream that was then deleted, which no promise covers.
        invented: stored events that were never attempted.
        doubled: events stored more than once.
        reordered: events stored after a later one of their execution.
        displaced: reordered events that a spool forwarded again after a stream that may have had them was deleted.
        executions: number of executions.
        changed: events stored with another content than emitted.
        dead: events dead-lettered without being poison, or more than once.
        unburied: poison that the stream had without a dead letter.
        poisoned: number of poison messages that the stream has acknowledged.
        read: number of events that a reader of the live stream got.
        missed: events the reader did not get, between its first and its last of a stream.
        complaints: answers that should have been refused, and their number.
        went_back: ids that did not exceed the one before, in one life of a worker.
        deadlocks: number of deadlocks in Postgres; inserts in one order cause none.

    """

    attempted: int
    acknowledged: int
    stored: int
    lost: dict[int, Place]
    unprotected: int
    invented: list[int]
    doubled: list[int]
    reordered: list[int]
    displaced: int
    executions: int
    changed: list[int]
    dead: list[int]
    unburied: list[int]
    poisoned: int
    read: int
    missed: list[int]
    complaints: Mapping[str, int]
    went_back: list[int]
    deadlocks: int

    @property
    def broken(self) -> dict[str, Collection[Any] | int]:
        """The sets that must be empty, by name."""
        return {
            "lost": self.lost,
            "invented": self.invented,
            "doubled": self.doubled,
            "reordered": self.reordered,
            "changed": self.changed,
            "dead": self.dead,
            "unburied": self.unburied,
            "missed by a reader": self.missed,
            "wrong answers": self.complaints,
            "ids that went back": self.went_back,
            "deadlocks": self.deadlocks,
        }

    @property
    def holds(self) -> bool:
        """True if every promise was kept."""
        return not any(self.broken.values())


def judge(evidence: Evidence) -> Verdict:
    """Return the verdict on *evidence*."""
    story, stored = evidence.story, Counter(row.event_id for row in evidence.rows)
    gone = [each for each in story.acknowledged if each not in stored and each not in evidence.dead]
    excused = {each for each in gone if is_unprotected(each, story, evidence.deletions)}
    places = _places(
        sorted(story.acknowledged, key=story.acknowledged.__getitem__),
        stored,
        [each for each in gone if each not in excused],
    )
    late = _late(evidence)
    displaced = {row.event_id for row in late if _is_displaced(row, evidence)}
    return Verdict(
        attempted=len(story.attempted),
        acknowledged=len(story.acknowledged),
        stored=len(stored),
        lost=places,
        unprotected=len(excused),
        invented=sorted(_invented(evidence)),
        doubled=sorted(each for each, times in stored.items() if times > 1),
        reordered=[row.event_id for row in late if row.event_id not in displaced],
        displaced=len(displaced),
        executions=len({attempt.execution_id for attempt in story.attempted.values()}),
        changed=sorted(each for each, total in evidence.sums.items() if evidence.expected.get(each, total) != total),
        dead=sorted(each for each, times in evidence.dead.items() if times > 1 or each not in evidence.poison),
        unburied=sorted(_unburied(evidence)),
        poisoned=sum(each.acknowledged is not None for each in evidence.poison.values()),
        read=len(evidence.seen),
        missed=sorted(_missed(evidence)),
        complaints=evidence.complaints,
        went_back=story.went_back,
        deadlocks=evidence.deadlocks,
    )


def is_unprotected(event_id: int, story: Story, deletions: Sequence[Deletion]) -> bool:
    """Return true if only a deleted stream had this event, because it came over HTTP without a spool."""
    attempt, acknowledged = story.attempted[event_id], story.acknowledged[event_id]
    return attempt.journal.startswith("poster") and _may_be_gone(event_id, attempt.at, acknowledged, deletions)


def _may_be_gone(event_id: int, sent: float, acknowledged: float, deletions: Sequence[Deletion]) -> bool:
    return any(
        event_id in deletion.unsettled or (acknowledged >= deletion.began and sent <= deletion.healed)
        for deletion in deletions
    )


def _unburied(evidence: Evidence) -> set[int]:
    return {
        event_id
        for event_id, poison in evidence.poison.items()
        if poison.acknowledged is not None
        and event_id not in evidence.dead
        and not _may_be_gone(event_id, poison.at, poison.acknowledged, evidence.deletions)
    }


def _missed(evidence: Evidence) -> set[int]:
    """Return the events that no reader got; poison may be no event, which no reader gets."""
    missed: set[int] = set()
    for order in evidence.orders:
        seen = [sequence for sequence, event_id in order.items() if (sequence, event_id) in evidence.seen]
        between = range(min(seen, default=0), max(seen, default=0))
        missed |= {order[each] for each in between if each in order and (each, order[each]) not in evidence.seen}
    return missed - evidence.poison.keys()


def _invented(evidence: Evidence) -> set[int]:
    attempted = evidence.story.attempted
    return {
        row.event_id
        for row in evidence.rows
        if row.event_id not in attempted or attempted[row.event_id].execution_id != row.execution_id
    }


def _places(acknowledged: Sequence[int], stored: Mapping[int, int], lost: Sequence[int]) -> dict[int, Place]:
    if not lost:
        return {}
    place = {each: number for number, each in enumerate(acknowledged)}
    there = [place[each] for each in stored if each in place]
    first, last = min(there, default=len(place)), max(there, default=-1)
    return {
        each: "prefix" if place[each] < first else "tail" if place[each] > last else "middle" for each in sorted(lost)
    }


def _late(evidence: Evidence) -> list[StoredRow]:
    """Return the rows after a later one of their execution."""
    highest: dict[int, int] = defaultdict(int)
    late: list[StoredRow] = []
    for row in evidence.rows:
        if row.event_id < highest[row.execution_id]:
            late.append(row)
        highest[row.execution_id] = max(highest[row.execution_id], row.event_id)
    return late


def _is_displaced(row: StoredRow, evidence: Evidence) -> bool:
    """Return true if a deleted stream may have had this event: attempted before the new one, and not yet stored."""
    attempt = evidence.story.attempted.get(row.event_id)
    return attempt is not None and any(
        attempt.at <= deletion.healed and row.at >= deletion.began for deletion in evidence.deletions
    )
