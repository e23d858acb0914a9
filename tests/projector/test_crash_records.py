"""Crash suspects: the grouping of messages that may have killed the process, and the crash records."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from consumers.projector import crash_records
from consumers.projector.crash_records import CrashRecord, CrashRecords, Group, blocks_of
from noetl_events import SinkUnavailable
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.storage import store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration
    from tests.projector.bench import Bench

STORED_NS = 1_700_000_000_000_000_000


class Delivered(NamedTuple):
    """A message as it was delivered."""

    reply: str
    subject: str = "events.x"
    data: bytes = b"{}"
    headers: dict[str, str] | None = None


def delivered(sequence: int, *, attempt: int = 2, stored_ns: int = STORED_NS, stream: str = "events") -> Delivered:
    """Return a message of *stream* with the delivery count *attempt*."""
    return Delivered(f"$JS.ACK.{stream}.projector.{attempt}.{sequence}.{sequence}.{stored_ns + sequence}.0")


def shape(parts: Sequence[Group]) -> list[tuple[int, int, int, int]]:
    """Return first and last sequence, length and crash count of each group."""
    places = [[int(message.reply.split(".")[5]) for message in part.messages] for part in parts]
    return [
        (place[0], place[-1], len(place), part.deaths if part.is_suspect else -1)
        for place, part in zip(places, parts, strict=True)
    ]


@pytest.mark.parametrize(
    ("attempts", "in_doubt", "expected"),
    [
        pytest.param({1: 1, 2: 1, 3: 1}, 0, [(1, 3, 3, -1)], id="first deliveries go together"),
        pytest.param({1: 2, 2: 3, 3: 2}, 0, [(1, 3, 3, 0)], id="second ones too, on trial"),
        pytest.param({1: 2, 2: 1, 3: 2}, 0, [(1, 1, 1, 0), (2, 2, 1, -1), (3, 3, 1, 0)], id="order is kept"),
        pytest.param({499: 2, 500: 2, 501: 2}, 0, [(499, 499, 1, 0), (500, 501, 2, 0)], id="blocks end at 500"),
        pytest.param({1: 1, 2: 1, 3: 1}, 2, [(1, 2, 2, 0), (3, 3, 1, -1)], id="in doubt is on trial"),
        pytest.param({1: 1, 3: 2}, 2, [(1, 3, 2, 0)], id="in doubt or again is the same"),
    ],
)
def test_redelivered_messages_are_split_into_blocks(
    attempts: dict[int, int], in_doubt: int, expected: list[tuple[int, int, int, int]]
) -> None:
    """Suspects are split off the batch in blocks, and every message keeps its place."""
    messages = [delivered(sequence, attempt=attempt) for sequence, attempt in attempts.items()]

    assert shape(list(blocks_of(messages, in_doubt=in_doubt))) == expected


def group_of(first: int, last: int, *, stream: str, stored_ns: int = STORED_NS) -> Group:
    """Return a group of redelivered messages."""
    messages = [delivered(number, stream=stream, stored_ns=stored_ns) for number in range(first, last + 1)]
    return Group(list(messages), is_suspect=True)


@pytest.mark.parametrize(
    ("noted", "again", "expected"),
    [
        pytest.param((1, 499), (1, 499), [19] * 26 + [5], id="a block in parts of a twenty-fifth"),
        pytest.param((20, 39), (20, 39), [1] * 20, id="such a part one by one"),
        pytest.param((20, 39), (10, 45), [10, *[1] * 20, 6], id="what stands around it together"),
        pytest.param((20, 39), (30, 45), [*[1] * 10, 6], id="what is settled is left out"),
        pytest.param((20, 39), (40, 45), [6], id="a note of others says nothing"),
    ],
)
async def test_open_record_splits_its_messages(
    bench: Bench, stream: StreamDeclaration, noted: tuple[int, int], again: tuple[int, int], expected: list[int]
) -> None:
    """Redelivered messages of an open crash record are tested in smaller groups."""
    trials = CrashRecords(bench.connection)
    await trials.record(group_of(*noted, stream=stream.name))
    parts = await trials.split(group_of(*again, stream=stream.name))

    assert [len(part.messages) for part in parts] == expected
    assert [part.deaths for part in parts] == [0] * len(parts)
    tried = [number for first, last, *_ in shape(parts) for number in range(first, last + 1)]
    assert tried == [*range(*again), again[1]]


async def test_cleared_record_splits_nothing(bench: Bench, stream: StreamDeclaration) -> None:
    """Messages of a cleared crash record are tested together when redelivered."""
    part = group_of(1, 20, stream=stream.name)
    trials = CrashRecords(bench.connection)
    await trials.record(part)
    await trials.clear(part)

    assert await trials.split(part) == [part]


@pytest.mark.parametrize(
    ("tried", "left"),
    [
        pytest.param((20, 25), (26, 39), id="what is behind it remains"),
        pytest.param((36, 39), None, id="nothing is left behind the last"),
        pytest.param((1, 9), (20, 39), id="what no note holds changes none"),
    ],
)
async def test_stored_group_clears_its_part_of_the_record(
    bench: Bench, stream: StreamDeclaration, tried: tuple[int, int], left: tuple[int, int] | None
) -> None:
    """Only the tested part of an open crash record is cleared: a later delivery may hold the culprit."""
    trials = CrashRecords(bench.connection)
    await trials.record(group_of(20, 39, stream=stream.name))
    for part in await trials.split(group_of(*tried, stream=stream.name)):
        await trials.record(part)
        await trials.clear(part)
    [*parts] = await trials.split(group_of(1, 50, stream=stream.name))

    narrowed = [place[0] for place in shape(parts) if place[2] == 1]
    assert narrowed == ([] if left is None else list(range(left[0], left[1] + 1)))


async def test_outage_restores_the_record(bench: Bench, stream: StreamDeclaration) -> None:
    """An outage during a test restores the crash record, crash count included."""
    trials = CrashRecords(bench.connection)
    single = group_of(7, 7, stream=stream.name)
    await trials.record(single)
    for _ in range(3):
        [again] = await trials.split(single)
        with suppress(SinkUnavailable):
            async with trials.attempt(again):
                raise SinkUnavailable("away")

    assert again.deaths == 1


async def test_lost_answer_leaves_no_crash_record(
    bench: Bench, stream: StreamDeclaration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash record is restored by a second attempt if the first one has no answer: the process has not died."""
    records, single = CrashRecords(bench.connection), group_of(7, 7, stream=stream.name)
    stores: list[bytes] = []

    async def store_but_the_second(
        connection: Connection, subject: str, payload: bytes, *args: Any, **more: Any
    ) -> int:
        stores.append(payload)
        if len(stores) == 2:
            raise NatsUnavailable("no answer")
        return await store(connection, subject, payload, *args, **more)

    monkeypatch.setattr(crash_records, "store", store_but_the_second)
    [again] = await records.split(single)
    with pytest.raises(KeyError):
        async with records.attempt(again._replace(is_suspect=True)):
            raise KeyError("bug")
    [again] = await records.split(single)

    assert again.deaths == 0
    assert stores[1:] == [b"", b""]


async def test_alone_when_the_process_died_twice_is_fatal(bench: Bench, stream: StreamDeclaration) -> None:
    """The first crash with a message alone is a warning, the second one dead-letters it."""
    single, deaths = group_of(7, 7, stream=stream.name), []
    trials = CrashRecords(bench.connection)
    for _ in range(3):
        [single] = await trials.split(single)
        deaths.append((single.deaths, single.is_fatal))
        await trials.record(single)

    assert deaths == [(0, False), (1, False), (2, True)]


async def test_two_culprits_of_one_block_are_found(bench: Bench, stream: StreamDeclaration) -> None:
    """Two culprits of one block, delivered in turns, are both found: no test clears the other's crash record."""
    trials = CrashRecords(bench.connection)
    deaths: dict[int, list[int]] = {7: [], 8: []}
    for _ in range(3):
        for sequence, counted in deaths.items():
            [single] = await trials.split(group_of(sequence, sequence, stream=stream.name))
            counted.append(single.deaths)
            if not single.is_fatal:
                await trials.record(single)

    assert deaths == {7: [0, 1, 2], 8: [0, 1, 2]}


async def test_another_message_of_the_same_sequence_is_not_fatal(bench: Bench, stream: StreamDeclaration) -> None:
    """A stream created again repeats its sequences; the new message is not the one of the crash record."""
    trials = CrashRecords(bench.connection)
    dead = group_of(7, 7, stream=stream.name)
    await trials.record(dead._replace(record=CrashRecord(first=7, last=7, stored_ns=STORED_NS + 7, deaths=1)))
    [same] = await trials.split(dead)
    [other] = await trials.split(group_of(7, 7, stream=stream.name, stored_ns=STORED_NS + 1))

    assert (same.is_fatal, other.deaths, other.is_fatal) == (True, 0, False)
