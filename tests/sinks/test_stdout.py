"""StdoutSink: the contract on a file, then the faults of a stream."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec import Raw

import noetl_events
from noetl_events import SinkUnavailable, decode, encode
from noetl_events.sinks.stdout import StdoutSink
from noetl_events.testing import SinkContract, make_event, make_events

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from noetl_events import EventSink, ExecutorEvent

ROOT = Path(noetl_events.__file__).parents[1]

CHILD = """
import asyncio, sys
from noetl_events import SinkUnavailable
from noetl_events.sinks.stdout import StdoutSink
from noetl_events.testing import make_event

async def main():
    sink = StdoutSink.from_url("stdout:")
    print(*sys.argv[1:], end="")
    for event_id in range(1, 4):
        try:
            await sink.emit(make_event(event_id))
        except SinkUnavailable as exc:
            sys.stderr.write(exc.reason)
            break
    await sink.aclose()

asyncio.run(main())
"""


class Trickle(io.RawIOBase):
    """A stream that accepts seven bytes at a time, and none after *room* bytes until there is room again."""

    def __init__(self, room: int, refusal: int | None = errno.ENOSPC) -> None:
        self.room = room
        self.refusal = refusal
        self.taken = bytearray()

    def writable(self) -> bool:
        """Return True, as io requires."""
        return True

    def write(self, data: bytes) -> int | None:  # type: ignore[override]
        """Accept the bytes that fit; a full stream raises, or returns None when it does not block."""
        part = bytes(data[: min(7, self.room - len(self.taken))])
        if part:
            self.taken += part
            return len(part)
        if self.refusal is None:
            return None
        raise OSError(self.refusal, os.strerror(self.refusal))


class TestStdoutSink(SinkContract):
    """StdoutSink on a file keeps the contract except across sinks."""

    keyed = False

    @pytest.fixture(autouse=True)
    def _stream(self, tmp_path: Path) -> Iterator[None]:
        self.path = tmp_path / "stdout"
        with self.path.open("wb") as self.stream:
            yield

    def open(self) -> EventSink:
        """Return a new sink that prints to the file of this test."""
        return StdoutSink(self.stream)

    async def stored(self) -> list[ExecutorEvent]:
        """Return the events in the file."""
        return [decode(line) for line in self.path.read_bytes().splitlines()]

    async def test_emitted_again_after_reopening_is_stored_once(self) -> None:
        """A new sink does not know earlier events, and prints the events it is given."""
        for _ in range(2):
            sink = self.open()
            await sink.emit_batch(make_events(2))
            await sink.aclose()

        assert [event.event_id for event in await self.stored()] == [1, 2, 1, 2]

    async def test_line_is_the_wire_form(self) -> None:
        """A line is the wire form of its event and a newline."""
        sink = self.open()
        await sink.emit(make_event(1))
        await sink.aclose()

        assert encode(make_event(1)) + b"\n" == self.path.read_bytes()

    async def test_pretty_printed_payload_stays_on_one_line(self) -> None:
        """Line breaks in a payload that is printed as received do not break the line."""
        sink = self.open()
        await sink.emit(make_event(1, context=Raw(b'{\r\n  "a": "b\\n"\n}')))
        await sink.aclose()
        (line,) = self.path.read_bytes().splitlines()

        assert bytes(decode(line).context) == b'{    "a": "b\\n" }'

    async def test_stream_stays_open(self) -> None:
        """The sink does not close a stream that it was given."""
        await self.open().aclose()

        assert not self.stream.closed


async def test_reader_that_has_gone_is_unavailable() -> None:
    """A closed pipe raises SinkUnavailable each time."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stream:
        sink = StdoutSink(stream)
        for _ in range(2):
            with pytest.raises(SinkUnavailable, match="stdout: Broken pipe"):
                await sink.emit(make_event(1))
        await sink.aclose()


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        pytest.param(errno.ENOSPC, "No space left on device", id="full disk"),
        pytest.param(None, "Resource temporarily unavailable", id="full pipe that does not block"),
    ],
)
async def test_failed_line_is_finished_and_printed_once(refusal: int | None, reason: str) -> None:
    """After a failure within a line, the next emit finishes that line before it prints its own."""
    first, second = encode(make_event(1)) + b"\n", encode(make_event(2)) + b"\n"
    stream = Trickle(room=len(first) // 2, refusal=refusal)
    sink = StdoutSink(stream)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(SinkUnavailable, match=reason):
            await sink.emit(make_event(1))
    stream.room = 10_000
    await sink.emit_batch(make_events(2))
    await sink.aclose()

    assert first + second == bytes(stream.taken)


async def test_failures_do_not_pile_up() -> None:
    """While the stream fails, events other than the first to fail are refused and not kept."""
    stream = Trickle(room=0)
    sink = StdoutSink(stream)  # type: ignore[arg-type]
    for event in make_events(3):
        with pytest.raises(SinkUnavailable):
            await sink.emit(event)
    stream.room = 10_000
    await sink.emit(make_event(9))
    await sink.aclose()

    assert [decode(line).event_id for line in bytes(stream.taken).splitlines()] == [1, 9]


async def test_stalled_reader_does_not_stall_the_loop() -> None:
    """While a line waits for its reader, other tasks run: here the reader."""
    event = make_event(1, context="x" * 1_000_000)
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as output, os.fdopen(writer, "wb") as stream:
        sink = StdoutSink(stream)
        emit = asyncio.ensure_future(sink.emit(event))
        line = await asyncio.to_thread(output.readline)
        await emit
        await sink.aclose()

    assert encode(event) + b"\n" == line


async def test_concurrent_long_lines_stay_whole() -> None:
    """Lines longer than a pipe's buffer do not mix, though many tasks emit them."""
    sent = [make_event(event_id, context="x" * 100_000) for event_id in range(1, 21)]
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as output:
        reading = asyncio.ensure_future(asyncio.to_thread(output.readlines))
        with os.fdopen(writer, "wb") as stream:
            sink = StdoutSink(stream)
            await asyncio.gather(*(sink.emit(event) for event in sent))
            await sink.aclose()
        lines = await reading

    assert [encode(event) + b"\n" for event in sent] == lines


async def test_doubles_are_known_for_a_while_only() -> None:
    """The memory for duplicates is bounded: of 65,537 events the first is printed again, the second is not."""
    stream = io.BytesIO()
    sink = StdoutSink(stream)
    await sink.emit_batch(make_events(65_537))
    stream.seek(0)
    stream.truncate()
    await sink.emit_batch([make_event(2), make_event(1)])
    await sink.aclose()

    assert encode(make_event(1)) + b"\n" == stream.getvalue()


def run_child(stdout: int | BinaryIO, *printed: str) -> subprocess.CompletedProcess[bytes]:
    """Run the child, which prints *printed* itself and three events through the sink."""
    return subprocess.run(
        [sys.executable, "-c", CHILD, *printed],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
        timeout=300,
    )


def test_standard_output_keeps_what_was_printed_before() -> None:
    """Text that print() still buffers is written to the real standard output before the events."""
    child = run_child(subprocess.PIPE, "printed before\n")

    assert child.stderr == b""
    assert [b"printed before", *map(encode, make_events(3))] == child.stdout.splitlines()


def test_closed_standard_output_leaves_no_traceback() -> None:
    """A process with a closed standard output gets SinkUnavailable, and no traceback at its exit."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stdout:
        child = run_child(stdout)

    assert (child.stderr, child.returncode) == (b"stdout: Broken pipe", 0)


@pytest.mark.parametrize("url", ["stdout:x", "stdout://host", "stdout:?fsync=true", "stdout:#a"])
def test_url_with_more_is_refused(url: str) -> None:
    """An unknown part of the URL is refused."""
    with pytest.raises(ValueError, match="has more than `stdout:`"):
        StdoutSink.from_url(url)


async def test_cancelled_emit_still_prints_whole_lines() -> None:
    """A cancelled emit finishes its line before the next begins."""
    events = [make_event(event_id, context="x" * 100_000) for event_id in (1, 2)]
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as output, os.fdopen(writer, "wb") as stream:
        sink = StdoutSink(stream)
        cancelled = asyncio.ensure_future(sink.emit(events[0]))
        await asyncio.sleep(0)
        cancelled.cancel()
        with suppress(asyncio.CancelledError):
            await cancelled
        emit = asyncio.ensure_future(sink.emit_batch(events))
        lines = await asyncio.to_thread(lambda: [output.readline(), output.readline()])
        await emit
        await sink.aclose()

    assert [encode(event) + b"\n" for event in events] == lines
