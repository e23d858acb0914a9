"""The checker of a campaign: each kind of damage is found, and no damage where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.campaign.events import event_of
from tests.faults.campaign.journal import Journal, Story
from tests.faults.campaign.poison_producer import Poison
from tests.faults.campaign.rows import StoredRow
from tests.faults.campaign.verdict import Deletion, Evidence, judge

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.faults.campaign.verdict import Verdict

EXECUTION = 7


def story(folder: Path, *, attempted: Sequence[int], acknowledged: Sequence[int], worker: str = "publisher 0") -> Story:
    """Return the journal of a worker with these attempts and acknowledgements."""
    journal = Journal(folder / f"{worker}.0.journal")
    journal.attempt([event_of(each, EXECUTION) for each in attempted])
    for each in acknowledged:
        journal.acknowledge([event_of(each, EXECUTION)])
    told = Story()
    told.read(folder)
    return told


def arrived(*event_ids: int) -> list[StoredRow]:
    """Return rows of these events, in this order."""
    return [StoredRow(0.0, each, EXECUTION) for each in event_ids]


def verdict(told: Story, rows: list[StoredRow], **more: object) -> Verdict:
    """Return the verdict on this evidence, with nothing else wrong."""
    return judge(Evidence(story=told, rows=rows, **{"sums": {}, "expected": {}} | more))  # type: ignore[arg-type]


def test_nothing_wrong(tmp_path: Path) -> None:
    """An attempted event without acknowledgement may be stored or not."""
    found = verdict(story(tmp_path, attempted=range(1, 7), acknowledged=(1, 2, 3)), arrived(1, 2, 3, 4))

    assert found.holds
    assert (found.attempted, found.acknowledged, found.stored) == (6, 3, 4)


def test_lost(tmp_path: Path) -> None:
    """A lost event is reported with its place: before all stored events, between them, or after."""
    told = story(tmp_path, attempted=range(1, 6), acknowledged=(1, 2, 3, 4, 5))

    found = verdict(told, arrived(2, 4))

    assert found.lost == {1: "prefix", 3: "middle", 5: "tail"}
    assert not found.holds


def test_dead_is_not_lost(tmp_path: Path) -> None:
    """A dead letter is no loss, and a fault justifies no dead letter."""
    found = verdict(story(tmp_path, attempted=(1,), acknowledged=(1,)), [], dead={1: 1})

    assert found.lost == {}
    assert not found.holds


def test_poison(tmp_path: Path) -> None:
    """Acknowledged poison is one dead letter; unacknowledged poison may be one; no other event is."""
    told = story(tmp_path, attempted=(), acknowledged=())
    poison = {1: Poison(0.1, 0.2), 2: Poison(0.1, 0.2), 3: Poison(0.1, 0.2), 4: Poison(0.1), 5: Poison(0.1)}

    found = verdict(told, arrived(6), poison=poison, dead={1: 1, 2: 2, 4: 1, 7: 1})

    assert (found.dead, found.unburied, found.invented) == ([2, 7], [3], [6])
    assert not found.holds
    assert verdict(told, [], poison={1: Poison(0.1, 0.2)}, dead={1: 1}).holds


def test_deleted_stream_excuses_poison(tmp_path: Path) -> None:
    """Poison that only a deleted stream had needs no dead letter."""
    told, deletions = story(tmp_path, attempted=(), acknowledged=()), (Deletion(frozenset({1}), 1.0, 2.0),)
    poison = {1: Poison(0.1, 0.2), 2: Poison(1.4, 1.5), 3: Poison(0.1, 0.2), 4: Poison(2.1, 2.2)}

    assert verdict(told, [], poison=poison, deletions=deletions).unburied == [3, 4]


def test_missed_by_a_reader(tmp_path: Path) -> None:
    """In each stream no event is missing between the reader's first and last."""
    told = story(tmp_path, attempted=(), acknowledged=())
    orders = ({1: 10, 2: 20, 3: 30, 4: 40, 5: 50, 6: 60}, {1: 70, 2: 80, 3: 90}, {1: 95})
    seen = {(2, 20), (4, 40), (5, 50), (2, 80), (3, 90)}

    found = verdict(told, [], orders=orders, seen=seen)

    assert found.missed == [30]
    assert not found.holds
    assert verdict(told, [], orders=orders, seen=seen, poison={30: Poison(0.1)}).holds


def test_wrong_answer(tmp_path: Path) -> None:
    """An answer to an unauthorized request is reported."""
    assert not verdict(story(tmp_path, attempted=(), acknowledged=()), [], complaints={"GET /": 1}).holds


def test_invented(tmp_path: Path) -> None:
    """An event is invented if it was not attempted, or not in this execution."""
    told = story(tmp_path, attempted=(1, 2), acknowledged=(1, 2))

    assert verdict(told, [*arrived(1, 3), StoredRow(0.0, 2, EXECUTION + 1)]).invented == [2, 3]


def test_doubled(tmp_path: Path) -> None:
    """An event stored twice is reported."""
    assert verdict(story(tmp_path, attempted=(1,), acknowledged=(1,)), arrived(1, 1)).doubled == [1]


def test_reordered(tmp_path: Path) -> None:
    """An event stored after a later one of its execution is reported."""
    told = story(tmp_path, attempted=(1, 2, 3), acknowledged=(1, 2, 3))

    assert verdict(told, arrived(1, 3, 2)).reordered == [2]


def test_changed(tmp_path: Path) -> None:
    """An event that is read back with another content is reported."""
    told = story(tmp_path, attempted=(1, 2), acknowledged=(1, 2))

    assert verdict(told, arrived(1, 2), sums={1: 10, 2: 20}, expected={1: 10, 2: 21}).changed == [2]


def test_ids_that_went_back(tmp_path: Path) -> None:
    """Ids must increase within one life of a process; the next life has another clock."""
    (tmp_path / "poster.0.journal").write_text("a 5 7 0.1\na 4 7 0.2\na 6 7 0.3\na 6 7 0.4\n")
    (tmp_path / "poster.1.journal").write_text("a 1 7 0.5\n")
    told = Story()
    told.read(tmp_path)

    assert verdict(told, []).went_back == [4, 6]
    assert not verdict(told, []).holds


def test_deadlock(tmp_path: Path) -> None:
    """A single deadlock is reported."""
    assert not verdict(story(tmp_path, attempted=(), acknowledged=()), [], deadlocks=1).holds


def test_deleted_stream_excuses_only_who_had_no_spool(tmp_path: Path) -> None:
    """An event posted without a spool is lost with its stream; a publisher with a spool has to forward it again."""
    deleted = (Deletion(frozenset({1}), 0.0, 0.0),)
    spooled, posted = tmp_path / "spooled", tmp_path / "posted"
    for folder in (spooled, posted):
        folder.mkdir()

    of_publisher = verdict(story(spooled, attempted=(1,), acknowledged=(1,)), [], deletions=deleted)
    of_poster = verdict(story(posted, attempted=(1,), acknowledged=(1,), worker="poster"), [], deletions=deleted)

    assert list(of_publisher.lost) == [1]
    assert (of_poster.lost, of_poster.unprotected) == ({}, 1)


def test_deleted_stream_excuses_what_was_in_it(tmp_path: Path) -> None:
    """A deleted stream explains only lost events that were unsettled, or acknowledged during its deletion."""
    told = story(tmp_path, attempted=(1, 2), acknowledged=(1, 2), worker="poster")
    now = told.acknowledged[2]

    settled = verdict(told, [], deletions=(Deletion(frozenset({2}), now + 1, now + 2),))
    meanwhile = verdict(told, [], deletions=(Deletion(frozenset(), now - 1, now + 1),))
    later = verdict(told, [], deletions=(Deletion(frozenset(), now - 2, now - 1),))

    assert list(settled.lost) == [1]
    assert (meanwhile.lost, meanwhile.unprotected) == ({}, 2)
    assert list(later.lost) == [1, 2]


def test_deleted_stream_excuses_only_what_it_may_have_had(tmp_path: Path) -> None:
    """A deleted stream explains reordered events only if it may have had them: they are forwarded again."""
    told = story(tmp_path, attempted=(1, 2), acknowledged=(1, 2))
    attempted = told.attempted[1].at
    late = [StoredRow(attempted + 5, each, EXECUTION) for each in (2, 1)]

    stored = verdict(told, late, deletions=(Deletion(frozenset(), attempted + 6, attempted + 7),))
    lost = verdict(told, late, deletions=(Deletion(frozenset(), attempted + 1, attempted + 2),))
    after = verdict(told, late, deletions=(Deletion(frozenset(), attempted - 2, attempted - 1),))

    assert (stored.reordered, stored.displaced) == ([1], 0)
    assert (lost.reordered, lost.displaced) == ([], 1)
    assert (after.reordered, after.displaced) == ([1], 0)


def test_cut_line(tmp_path: Path) -> None:
    """A line cut by a kill counts once it is complete."""
    path, told = tmp_path / "publisher 0.0.journal", Story()
    path.write_text("a 1 7 0.5\nk 1 0.")
    told.read(tmp_path)
    assert told.acknowledged == {}

    with path.open("a") as file:
        file.write("75\n")
    told.read(tmp_path)

    assert told.acknowledged == {1: 0.75}
