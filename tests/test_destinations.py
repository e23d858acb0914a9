"""The names of a projector's consumers, and the subjects that they read."""

from __future__ import annotations

import pytest

from consumers.projector.destinations import destinations_of
from noetl_events.jetstream.declarations import StreamDeclaration

A, B = "postgresql://me:secret@db/noetl", "sqlite:///events.db"


def test_one_destination_has_the_name_that_was_given() -> None:
    """A projector with one destination uses the configured name, so it keeps its position."""
    assert [destination.durable for destination in destinations_of([A], "mine")] == ["mine"]


def test_names_follow_the_destination_and_not_its_place() -> None:
    """Destinations keep their progress when they change places, and so does one with a new password."""
    names = {destination.url: destination.durable for destination in destinations_of([A, B], "mine")}
    swapped = {destination.url: destination.durable for destination in destinations_of([B, A], "mine")}
    [renewed, _] = destinations_of([A.replace("secret", "other"), B], "mine")

    assert names == swapped
    assert renewed.durable == names[A]
    assert len(set(names.values())) == 2
    assert "secret" not in "".join(names.values())


def test_destination_given_twice_is_refused() -> None:
    """Two consumers for one destination would write everything twice; the message hides the password."""
    with pytest.raises(ValueError, match="given twice") as refusal:
        destinations_of([A, B, A], "mine")

    assert "secret" not in str(refusal.value)


def test_lanes_read_every_subject_once() -> None:
    """Each partition reads the subjects of its number; the first also reads subjects too short to be partitioned."""
    stream = StreamDeclaration(partitions=3)
    [destination] = destinations_of([B], "mine")
    consumers = list(destination.consumers(stream, ack_wait=30.0, pin_ttl=10.0, exclusive=False))

    assert [consumer.name for consumer in consumers] == ["mine_0", "mine_1", "mine_2"]
    assert all(consumer.exclusive and consumer.ack_wait == 10.0 for consumer in consumers)
    assert [consumer.filter_subjects for consumer in consumers] == [
        ("noetl.events.0.>", "noetl.events.*"),
        ("noetl.events.1.>",),
        ("noetl.events.2.>",),
    ]
