"""The state of a client of the live stream, from the positions of the client, the ring and the stream."""

from __future__ import annotations

import pytest

from consumers.gateway.hub import EncodedEvent, Hub, Ring
from consumers.gateway.sse import State, state_of
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.options import ConnectOptions


@pytest.fixture
def hub() -> Hub:
    """Return a hub of generation 2 that has read the sequences 11 to 20, of a stream that ended at 20."""
    ring = Ring()
    ring.clear(behind=10)
    ring.add(EncodedEvent(sequence, 1, "event", b"data") for sequence in range(11, 21))
    hub = Hub(Connection(ConnectOptions()), "events", ring)
    hub.generation, hub.last, hub.reason = 2, 20, ""
    return hub


@pytest.mark.parametrize(
    ("position", "caught_up", "state"),
    [
        (0, False, "catching up"),
        (9, False, "catching up"),
        (0, True, "fell behind"),
        (9, True, "fell behind"),
        (10, False, "in the ring"),
        (10, True, "in the ring"),
        (19, True, "in the ring"),
        (20, False, "at the end"),
        (20, True, "at the end"),
        (21, False, "ahead of the stream"),
        (21, True, "ahead of the stream"),
    ],
)
def test_position_decides(hub: Hub, position: int, *, caught_up: bool, state: State) -> None:
    """Within one generation the position decides, and before the ring also whether the client had caught up."""
    assert state_of(hub, generation=2, position=position, caught_up=caught_up) == state


@pytest.mark.parametrize("position", [0, 15, 21])
@pytest.mark.parametrize("generation", [1, 3])
def test_position_of_another_generation_means_nothing(hub: Hub, generation: int, position: int) -> None:
    """After the stream was replaced, the state is the same for every position."""
    assert state_of(hub, generation=generation, position=position, caught_up=True) == "stream replaced"


def test_message_that_the_hub_has_not_read_is_not_ahead(hub: Hub) -> None:
    """A client that has read the stream's last message waits for a hub that is still reading towards it."""
    hub.last = 25

    assert state_of(hub, generation=2, position=25, caught_up=False) == "at the end"
    assert state_of(hub, generation=2, position=26, caught_up=False) == "ahead of the stream"


def test_end_of_the_stream_is_unknown_while_it_is_not_read(hub: Hub) -> None:
    """While the hub cannot read the stream, a client beyond its last known end waits."""
    hub.reason = "no server"

    assert state_of(hub, generation=2, position=21, caught_up=True) == "at the end"
