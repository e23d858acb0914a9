"""How far a spool was handed over: from where it begins again when the stream has lost something."""

from __future__ import annotations

from noetl_events.jetstream.streams import StreamPosition
from noetl_events.sinks.spool.journal import Position
from noetl_events.sinks.spool.progress import Mark, Progress


def mark(offset: int, *, created: str = "first") -> Mark:
    """Return the mark after so many bytes, at the same second, of a stream with as many messages."""
    return Mark(Position(1, offset), float(offset), StreamPosition(created, offset))


def test_a_lost_end_is_handed_over_again() -> None:
    """What the stream still has is not, what came behind it is."""
    progress = Progress([mark(10), mark(20), mark(30)])

    assert progress.rewind(StreamPosition("first", 25)) == Position(1, 20)
    assert progress.marks == [mark(10), mark(20)]


def test_a_stream_created_anew_is_given_the_window() -> None:
    """What was acknowledged longer ago than the oldest mark stays where it is, however much of it the journal has."""
    progress = Progress([mark(10), mark(20)])

    assert progress.rewind(StreamPosition("second", 0)) == Position(1, 10)


def test_a_second_loss_while_handing_over_again_begins_there_too() -> None:
    """Created anew once more, the stream is given all of the window, not what was left of it."""
    progress = Progress([mark(10), mark(20)])
    progress.rewind(StreamPosition("second", 0))
    progress.record(mark(15, created="second"), apart=0.0)

    assert progress.rewind(StreamPosition("third", 0)) == Position(1, 10)


def test_nothing_known_is_everything_again() -> None:
    """Without a mark the oldest record is the place."""
    assert Progress().rewind(StreamPosition("first", 0)) is None
