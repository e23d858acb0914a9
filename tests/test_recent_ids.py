"""RecentIds, the bounded memory for duplicates."""

from __future__ import annotations

from noetl_events.ids import CAPACITY, RecentIds


def test_forgets_the_oldest_first() -> None:
    """A new id beyond the capacity replaces the oldest one."""
    ids = RecentIds(capacity=3)
    for message_id in (b"10", b"-20", b"30", b"40"):
        ids.add(message_id)

    assert [message_id in ids for message_id in (b"10", b"-20", b"30", b"40")] == [False, True, True, True]
    assert len(ids) == 3


def test_known_id_keeps_its_place() -> None:
    """A known id that is added again takes no room and becomes no younger."""
    ids = RecentIds(capacity=2)
    for message_id in (b"1", b"2", b"1", b"3"):
        ids.add(message_id)

    assert [message_id in ids for message_id in (b"1", b"2", b"3")] == [False, True, True]


def test_remembers_65536_ids() -> None:
    """The default capacity is 65,536 ids."""
    ids = RecentIds()
    for number in range(CAPACITY + 10):
        ids.add(b"%d" % number)

    assert len(ids) == 65_536
    assert b"9" not in ids
    assert b"10" in ids
