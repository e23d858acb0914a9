"""The progress of forwarding: the position to restart from after the stream has lost messages."""

from __future__ import annotations

from noetl_events.jetstream.streams import StreamPosition
from noetl_events.sinks.spool.journal import Position
from noetl_events.sinks.spool.progress import Mark, Progress


def mark(offset: int, *, created: str = "first") -> Mark:
    """Return the mark after *position* bytes, in the same second, of a stream with as many messages."""
    return Mark(Position(1, offset), float(offset), StreamPosition(created, offset))


def test_a_lost_end_is_handed_over_again() -> None:
    """Only events behind the stream's present end are forwarded again."""
    progress = Progress([mark(10), mark(20), mark(30)])

    assert progress.rewind(StreamPosition("first", 25)) == Position(1, 20)
    assert progress.marks == [mark(10), mark(20)]


def test_a_stream_created_anew_is_given_the_window() -> None:
    """Events acknowledged before the oldest mark are not forwarded again, even if the journal has them."""
    progress = Progress([mark(10), mark(20)])

    assert progress.rewind(StreamPosition("second", 0)) == Position(1, 10)


def test_a_second_loss_while_handing_over_again_begins_there_too() -> None:
    """A stream created again once more is sent the whole replay window, not the rest of it."""
    progress = Progress([mark(10), mark(20)])
    progress.rewind(StreamPosition("second", 0))
    progress.record(mark(15, created="second"), apart=0.0)

    assert progress.rewind(StreamPosition("third", 0)) == Position(1, 10)


def test_nothing_known_is_everything_again() -> None:
    """Without a mark the oldest record is the position."""
    assert Progress().rewind(StreamPosition("first", 0)) is None
