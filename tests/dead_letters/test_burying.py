"""Burying: a message becomes one dead letter, however often it is buried."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consumers.dead_letters import DeadLetters
from noetl_events.jetstream.puller import Puller

if TYPE_CHECKING:
    from tests.projector.bench import Bench


async def test_buried_twice_is_one_dead_letter(bench: Bench) -> None:
    """A message delivered and buried again, as after a crash before its ack, leaves one dead letter."""
    await bench.publish([b"malformed"])
    puller = Puller(bench.connection, bench.consumer)
    [message] = await puller.pull(1)
    letters = DeadLetters(bench.connection, prefix=bench.dead.name)
    await letters.bury(message, "malformed", "body: no")
    await letters.bury(message, "malformed", "body: no")
    await puller.aclose()

    assert len(await bench.dead_letters()) == 1
