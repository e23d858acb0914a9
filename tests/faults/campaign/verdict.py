"""What a campaign has shown: sets compared, in the manner of Jepsen."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from tests.faults.campaign.arrivals import Arrival
from tests.faults.campaign.journal import Story
from tests.faults.campaign.poisoner import Poison

Place: TypeAlias = Literal["prefix", "middle", "tail"]


class Deletion(NamedTuple):
    """
    A stream that was deleted and created anew, in monotonic seconds.

    Args:
        unsettled: ids of the events that were in it and settled by no projector, read at *began*.
        began: what was acknowledged from here on may have been in it too.
        healed: from here on there is a new one.

    """

    unsettled: frozenset[int]
    began: float
    healed: float


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is known when all is over.

    Args:
        story: of the workers: attempted, and acknowledged.
        arrivals: rows, in the order of their inserts.
        sums: the checksum of each row as it is read back, by event id.
        expected: the checksum of each of them as it was emitted.
        dead: how many messages of each id were buried.
        poison: what must be, by its id, if the stream had it.
        deletions: of the stream.
        orders: the ids in each stream there was, by their sequences.
        seen: sequences and ids that a reader of the live stream has seen.
        complaints: answers that guests should not have been given.
        deadlocks: Postgres has found.

    """

    story: Story
    arrivals: Sequence[Arrival]
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
    Sizes of the sets, and ids of what should not be.

    Args:
        lost: acknowledged, and neither stored nor dead, with their place in the order of the acknowledgements.
        unprotected: likewise, but posted without a spool into a stream that was then deleted: nobody promised them.
        invented: stored, and never attempted.
        doubled: stored more than once.
        reordered: stored after a later event of their execution.
        displaced: likewise, but the stream that may have had them was deleted: a spool handed them over again.
        executions: there were.
        changed: stored otherwise than emitted.
        dead: given up without being poison, no fault is a reason to; or buried more than once.
        unburied: poison that the stream had, and that is no dead letter.
        poisoned: messages of poison that the stream has acknowledged.
        read: events that a reader of the live stream has seen.
        missed: by it, between the first event it has seen of a stream and the last.
        complaints: answers that guests should not have been given, and how often they were.
        went_back: ids that were not above the one before, of the same life of a worker.
        deadlocks: found by Postgres; who inserts in one order locks nobody up.

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
        """What must be nothing, by its name."""
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
        """Whether every promise was kept."""
        return not any(self.broken.values())


def judge(evidence: Evidence) -> Verdict:
    """Return the verdict on *evidence*."""
    story, stored = evidence.story, Counter(arrival.event_id for arrival in evidence.arrivals)
    gone = [each for each in story.acknowledged if each not in stored and each not in evidence.dead]
    excused = {each for each in gone if is_unprotected(each, story, evidence.deletions)}
    places = _places(
        sorted(story.acknowledged, key=story.acknowledged.__getitem__),
        stored,
        [each for each in gone if each not in excused],
    )
    late = _late(evidence)
    displaced = {arrival.event_id for arrival in late if _is_displaced(arrival, evidence)}
    return Verdict(
        attempted=len(story.attempted),
        acknowledged=len(story.acknowledged),
        stored=len(stored),
        lost=places,
        unprotected=len(excused),
        invented=sorted(_invented(evidence)),
        doubled=sorted(each for each, times in stored.items() if times > 1),
        reordered=[arrival.event_id for arrival in late if arrival.event_id not in displaced],
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
    """Return whether nobody but a stream that was deleted had this event: it came over HTTP, without a spool."""
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
    """Return what no reader has seen; poison may be no event, and then nobody is shown it."""
    missed: set[int] = set()
    for order in evidence.orders:
        seen = [sequence for sequence, event_id in order.items() if (sequence, event_id) in evidence.seen]
        between = range(min(seen, default=0), max(seen, default=0))
        missed |= {order[each] for each in between if each in order and (each, order[each]) not in evidence.seen}
    return missed - evidence.poison.keys()


def _invented(evidence: Evidence) -> set[int]:
    attempted = evidence.story.attempted
    return {
        arrival.event_id
        for arrival in evidence.arrivals
        if arrival.event_id not in attempted or attempted[arrival.event_id].execution_id != arrival.execution_id
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


def _late(evidence: Evidence) -> list[Arrival]:
    """Return the arrivals after a later one of their execution."""
    highest: dict[int, int] = defaultdict(int)
    late: list[Arrival] = []
    for arrival in evidence.arrivals:
        if arrival.event_id < highest[arrival.execution_id]:
            late.append(arrival)
        highest[arrival.execution_id] = max(highest[arrival.execution_id], arrival.event_id)
    return late


def _is_displaced(arrival: Arrival, evidence: Evidence) -> bool:
    """Return whether a deleted stream may have had this event: attempted before there was another, and not stored."""
    attempt = evidence.story.attempted.get(arrival.event_id)
    return attempt is not None and any(
        attempt.at <= deletion.healed and arrival.at >= deletion.began for deletion in evidence.deletions
    )
