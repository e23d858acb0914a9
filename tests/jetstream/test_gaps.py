"""The numbers of deliveries reveal messages that a consumer has skipped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.consume.gaps import Gap, GapDetector, passed_over
from noetl_events.jetstream.consumers import SequenceInfo
from noetl_events.jetstream.message import Arrival

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration

# The ack subject without a domain and with one: a server writes either.
FORMS: Final = ("S.c.{}.1764460800000000000.7", "hub.AAAA.S.c.{}.1764460800000000000.7.xyz")


def delivered(sequence: int, number: int, *, attempt: int = 1, form: str = FORMS[0]) -> Arrival:
    """Return a message of the stream with the delivery number *number*."""
    return Arrival("e.x", f"$JS.ACK.{form.format(f'{attempt}.{sequence}.{number}')}", b"{}", None)


def begun(sequence: int, number: int, *, uncounted: int = 0) -> GapDetector:
    """Return a detector for the messages after this delivery."""
    detector = GapDetector()
    detector.start(SequenceInfo(sequence, number), uncounted=uncounted)
    return detector


@pytest.mark.parametrize("form", FORMS)
def test_one_message_after_the_other(form: str) -> None:
    """A skipped message is found within a batch and between two, and the next message is not blamed for it."""
    detector = begun(5, 5)

    assert detector.find([delivered(6, 6, form=form), delivered(7, 7, form=form)]) is None
    assert detector.find([delivered(8, 8, form=form), delivered(11, 9, form=form)]) == (1, Gap(8, 11))
    detector.accept(delivered(11, 9, form=form))
    assert detector.find([delivered(12, 10, form=form)]) is None
    assert detector.find([delivered(14, 11, form=form)]) == (0, Gap(12, 14))


def test_deliveries_to_other_pullers() -> None:
    """Each delivery to another puller accounts for one message; messages beyond that are a gap."""
    assert begun(5, 5).find([delivered(9, 9)]) is None
    assert begun(5, 5).find([delivered(12, 9)]) == (0, Gap(5, 12, elsewhere=3))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("attempt", [2, 10, 12, 100])
def test_message_that_comes_again_hides_no_gap(form: str, attempt: int) -> None:
    """A redelivery counts as a delivery and accounts for no message of the stream, at every attempt."""
    messages = [
        delivered(11, 11, form=form),
        delivered(3, 12, attempt=attempt, form=form),
        delivered(13, 13, form=form),
    ]

    assert begun(10, 10).find(messages) == (2, Gap(11, 13))
    assert begun(10, 10).find([*messages[:2], delivered(12, 13, form=form)]) is None


def test_consumer_that_counts_anew() -> None:
    """Numbers that go back mean that another puller has reset the consumer; that puller's messages are unknown."""
    assert begun(9, 9).find([delivered(8, 3)]) == (0, Gap(9, 8, elsewhere=2, is_renumbered=True))


def test_what_was_received_before_it_counted_anew() -> None:
    """As many messages with old numbers are skipped, in one call or several; after them each number counts."""
    detector = begun(5, 0, uncounted=3)

    assert detector.find([delivered(6, 106)]) is None
    assert detector.find([delivered(7, 107), delivered(8, 108), delivered(6, 1)]) is None
    assert detector.find([delivered(7, 2), delivered(9, 3)]) == (1, Gap(7, 9))


@pytest.mark.parametrize(
    ("gap", "missing"),
    [
        pytest.param(Gap(2, 7), 3, id="one of four was removed"),
        pytest.param(Gap(2, 7, elsewhere=2), 1, id="two went to other pullers"),
        pytest.param(Gap(2, 4), 0, id="the one between was removed"),
        pytest.param(Gap(4, 6), 1, id="the one between is there"),
        pytest.param(Gap(4, 8), 2, id="of three one was removed"),
        pytest.param(Gap(6, 7), 0, id="nothing between"),
    ],
)
async def test_what_the_stream_still_has(
    connection: Connection, stream: StreamDeclaration, gap: Gap, missing: int
) -> None:
    """Messages between the two ends count, without the ends, and without removed messages."""
    js = await jetstream(connection)
    for _ in range(10):
        await js.publish(f"{stream.name}.x", b"{}")
    for removed in (3, 7):
        await js.delete_msg(stream.name, removed)

    assert await passed_over(connection, stream.name, gap) == missing


async def test_what_the_stream_has_dropped(connection: Connection, stream: StreamDeclaration) -> None:
    """Messages before the stream's first one are no gap."""
    js = await jetstream(connection)
    for _ in range(10):
        await js.publish(f"{stream.name}.x", b"{}")
    await js.purge_stream(stream.name, keep=6)

    assert await passed_over(connection, stream.name, Gap(1, 4)) == 0
    assert await passed_over(connection, stream.name, Gap(1, 7)) == 2
