"""Messages that may have killed the process before: what is tried with what, and what is never held against them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import pytest
from nats.js.errors import NotFoundError

from consumers.suspects import Note, Part, Trials, parts_of
from noetl_events import ExecutorEvent, SinkUnavailable
from noetl_events.envelope import decode
from noetl_events.jetstream.topology import TRIALS_STREAM, jetstream
from noetl_events.sinks.memory import MemorySink
from noetl_events.testing import FaultySink, eventually, make_events
from tests.projector.bench import Bench, ids

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from consumers.projector import Projector
    from noetl_events.jetstream.topology import StreamDeclaration

STORED_NS = 1_700_000_000_000_000_000
POISON = 77
LIVES = 12


class Delivered(NamedTuple):
    """A message as it was delivered."""

    reply: str
    subject: str = "events.x"
    data: bytes = b"{}"
    headers: dict[str, str] | None = None


def delivered(sequence: int, *, attempt: int = 2, stored_ns: int = STORED_NS, stream: str = "events") -> Delivered:
    """Return a message of *stream*, delivered so many times."""
    return Delivered(f"$JS.ACK.{stream}.projector.{attempt}.{sequence}.{sequence}.{stored_ns + sequence}.0")


def shape(parts: Sequence[Part]) -> list[tuple[int, int, int, int]]:
    """Return first and last sequence, length and deaths of each part."""
    places = [[int(message.reply.split(".")[5]) for message in part.messages] for part in parts]
    return [
        (place[0], place[-1], len(place), part.deaths if part.suspected else -1)
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
def test_what_is_tried_with_what(
    attempts: dict[int, int], in_doubt: int, expected: list[tuple[int, int, int, int]]
) -> None:
    """What may have killed somebody is cut out of the batch, in blocks, and nothing changes its place."""
    messages = [delivered(sequence, attempt=attempt) for sequence, attempt in attempts.items()]

    assert shape(list(parts_of(messages, in_doubt=in_doubt))) == expected


def part_of(first: int, last: int, *, stream: str, stored_ns: int = STORED_NS) -> Part:
    """Return a part of messages that came again."""
    messages = [delivered(number, stream=stream, stored_ns=stored_ns) for number in range(first, last + 1)]
    return Part(list(messages), suspected=True)


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
async def test_a_note_that_stands_narrows(
    bench: Bench, stream: StreamDeclaration, noted: tuple[int, int], again: tuple[int, int], expected: list[int]
) -> None:
    """Of what comes again, the messages that were on trial when the process died are tried in smaller parts."""
    trials = Trials(bench.connection)
    await trials.begin(part_of(*noted, stream=stream.name))
    parts = await trials.narrow(part_of(*again, stream=stream.name))

    assert [len(part.messages) for part in parts] == expected
    assert [part.deaths for part in parts] == [0] * len(parts)
    tried = [number for first, last, *_ in shape(parts) for number in range(first, last + 1)]
    assert tried == [*range(*again), again[1]]


async def test_a_note_struck_out_does_not_narrow(bench: Bench, stream: StreamDeclaration) -> None:
    """What the process survived is tried together when it comes again."""
    part = part_of(1, 20, stream=stream.name)
    trials = Trials(bench.connection)
    await trials.begin(part)
    await trials.survive(part)

    assert await trials.narrow(part) == [part]


@pytest.mark.parametrize(
    ("tried", "left"),
    [
        pytest.param((20, 25), (26, 39), id="what is behind it remains"),
        pytest.param((36, 39), None, id="nothing is left behind the last"),
        pytest.param((1, 9), (20, 39), id="what no note holds changes none"),
    ],
)
async def test_surviving_a_part_leaves_the_rest_in_doubt(
    bench: Bench, stream: StreamDeclaration, tried: tuple[int, int], left: tuple[int, int] | None
) -> None:
    """Of a note that stands only what was survived is struck out: the culprit may come with a later delivery."""
    trials = Trials(bench.connection)
    await trials.begin(part_of(20, 39, stream=stream.name))
    for part in await trials.narrow(part_of(*tried, stream=stream.name)):
        await trials.begin(part)
        await trials.survive(part)
    [*parts] = await trials.narrow(part_of(1, 50, stream=stream.name))

    narrowed = [place[0] for place in shape(parts) if place[2] == 1]
    assert narrowed == ([] if left is None else list(range(left[0], left[1] + 1)))


async def test_a_trial_withdrawn_is_as_if_it_had_not_been(bench: Bench, stream: StreamDeclaration) -> None:
    """An outage during a trial brings back the note as it was, deaths and all."""
    trials = Trials(bench.connection)
    single = part_of(7, 7, stream=stream.name)
    await trials.begin(single)
    for _ in range(3):
        [again] = await trials.narrow(single)
        await trials.begin(again)
        await trials.withdraw(again)

    assert again.deaths == 1


async def test_alone_when_the_process_died_twice_is_fatal(bench: Bench, stream: StreamDeclaration) -> None:
    """The first death alone is a warning, the second one the verdict."""
    single, deaths = part_of(7, 7, stream=stream.name), []
    trials = Trials(bench.connection)
    for _ in range(3):
        [single] = await trials.narrow(single)
        deaths.append((single.deaths, single.is_fatal))
        await trials.begin(single)

    assert deaths == [(0, False), (1, False), (2, True)]


async def test_a_verdict_stands_while_others_are_tried(bench: Bench, stream: StreamDeclaration) -> None:
    """Two culprits of one block that come in turns are both found: neither trial strikes out the other's verdict."""
    trials = Trials(bench.connection)
    deaths: dict[int, list[int]] = {7: [], 8: []}
    for _ in range(3):
        for sequence, counted in deaths.items():
            [single] = await trials.narrow(part_of(sequence, sequence, stream=stream.name))
            counted.append(single.deaths)
            if not single.is_fatal:
                await trials.begin(single)

    assert deaths == {7: [0, 1, 2], 8: [0, 1, 2]}


async def test_another_message_of_the_same_sequence_is_not_fatal(bench: Bench, stream: StreamDeclaration) -> None:
    """A stream created again starts its sequences again; the new message is not the one that killed."""
    trials = Trials(bench.connection)
    dead = part_of(7, 7, stream=stream.name)
    await trials.begin(dead._replace(note=Note(first=7, last=7, stored_ns=STORED_NS + 7, deaths=1)))
    [same] = await trials.narrow(dead)
    [other] = await trials.narrow(part_of(7, 7, stream=stream.name, stored_ns=STORED_NS + 1))

    assert (same.is_fatal, other.deaths, other.is_fatal) == (True, 0, False)


class Trap(MemorySink):
    """A sink with a bug that one event brings out, before anything is stored."""

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Store, or fail."""
        if any(event.event_id == POISON for event in events):
            raise RuntimeError("a bug of the sink")
        await super().emit_batch(events)


@pytest.mark.parametrize("exclusive", [False, True], ids=["shared", "exclusive"])
async def test_bug_of_the_sink_ends_with_one_dead_letter(bench: Bench, *, exclusive: bool) -> None:
    """Restarted again and again, projectors bury exactly the event that ends them; the others are stored once."""
    sink = Trap()
    await bench.publish(make_events(200))

    async def is_over() -> bool:
        return len(sink.events) == 199 and await bench.dead_letters() != []

    lives = 0
    while not await is_over():
        lives += 1
        assert lives <= LIVES
        await ends_or(bench.projector(sink, ack_wait=0.5, exclusive=exclusive), is_over)
    [letter] = await bench.dead_letters()

    assert ids(sink) == [number for number in range(1, 201) if number != POISON]
    assert (decode(letter.data).event_id, letter.headers["Noetl-Kind"]) == (POISON, "fatal")


async def ends_or(projector: Projector, is_over: Callable[[], Awaitable[bool]]) -> None:
    """Run *projector* until a bug of its sink ends it, or until all *is_over*."""
    running = asyncio.create_task(projector.run())

    async def is_done() -> bool:
        return running.done() or await is_over()

    await eventually(is_done)
    if not running.done():
        await projector.stop()
    with suppress(RuntimeError):
        await running


class Waiting(MemorySink):
    """A sink that waits to be let go before it stores."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Wait, then store."""
        self.asked.set()
        await self.go.wait()
        await super().emit_batch(events)


async def again(bench: Bench, count: int) -> None:
    """Publish *count* events, and have them delivered to somebody who dies."""
    await bench.publish(make_events(count))
    sink = Waiting()
    running = asyncio.create_task(bench.projector(sink, ack_wait=0.5).run())
    await sink.asked.wait()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def notes(bench: Bench) -> list[bytes]:
    """Return the notes on the bench's stream that stand."""
    js = await jetstream(bench.connection)
    subject = f"noetl.trials.{bench.stream.name}.projector.0"
    with suppress(NotFoundError):
        return [note] if (note := (await js.get_last_msg(TRIALS_STREAM, subject)).data or b"") else []
    return []


async def test_outage_during_a_trial_does_not_count(bench: Bench) -> None:
    """However often the destination is away while an event is tried, it is stored in the end, and no note stands."""
    memory = MemorySink()
    await again(bench, 1)
    sink = FaultySink(memory, [SinkUnavailable("away")] * 8)
    async with bench.projecting(sink, ack_wait=0.5):
        await eventually(lambda: ids(memory) == [1])

    assert sink.calls == 9
    assert await bench.dead_letters() == []
    assert await notes(bench) == []


async def test_outage_leaves_no_note(bench: Bench) -> None:
    """While the destination is away nothing is on trial: a projector killed then has nothing against the event."""
    await again(bench, 1)
    away = FaultySink(MemorySink(), [SinkUnavailable("away", retry_after=60)])
    projector = bench.projector(away, ack_wait=0.5)
    running = asyncio.create_task(projector.run())
    await eventually(lambda: projector.progress.holding == "sink")

    assert await notes(bench) == []
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_being_stopped_during_a_trial_does_not_count(bench: Bench) -> None:
    """A projector stopped by force while its destination hangs leaves no note: three such stops bury nothing."""
    await again(bench, 1)
    for _ in range(3):
        hanging = Waiting()
        running = asyncio.create_task(bench.projector(hanging, ack_wait=0.5).run())
        await hanging.asked.wait()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        assert await notes(bench) == []
    sink = MemorySink()
    async with bench.projecting(sink, ack_wait=0.5):
        await eventually(lambda: ids(sink) == [1])

    assert await bench.dead_letters() == []


async def test_one_alone_is_tried_while_nothing_else_is_written(bench: Bench) -> None:
    """
    While one event is on trial alone, no other projector of the process writes.

    Whoever kills the process is then known; else a neighbour's deaths would be counted for an innocent.
    """
    await again(bench, 1)
    trials = Trials(bench.connection)
    tried, neighbour = Waiting(), MemorySink()
    async with bench.projecting(tried, trials=trials, ack_wait=0.5):
        await tried.asked.wait()
        async with bench.projecting(neighbour, trials=trials, name="neighbour") as other:
            await eventually(lambda: other.in_hand == 1)
            assert await notes(bench) != []
            assert ids(neighbour) == []
            tried.go.set()
            await eventually(lambda: ids(neighbour) == [1] == ids(tried))
