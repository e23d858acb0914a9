"""A dead-letter stream with dead letters, and the messages of the stream they came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from consumers.dead_letters import DeadLetters
from consumers.dead_letters.resend import Resending
from consumers.dead_letters.store import DeadLetterReader
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.consume.puller import Puller

if TYPE_CHECKING:
    from consumers.dead_letters import Kind
    from consumers.dead_letters.letter import Letter
    from tests.projector.bench import Bench


def reader_of(bench: Bench) -> DeadLetterReader:
    """Return the reader of the bench's dead letters."""
    return DeadLetterReader(bench.connection, stream=bench.dead.name)


def resending(bench: Bench) -> Resending:
    """Return the object that sends the bench's dead letters back."""
    return Resending(bench.connection, reader_of(bench))


async def publish_dead(
    bench: Bench,
    *bodies: bytes,
    kind: Kind = "rejected",
    reason: str = "no",
    headers: dict[str, str] | None = None,
    times: int = 1,
) -> list[Letter]:
    """Publish *bodies*, dead-letter each as a projector does, and return all dead letters."""
    js = await jetstream(bench.connection)
    for body in bodies:
        await js.publish(f"{bench.stream.name}.x", body, headers=headers)
    puller = Puller(bench.connection, bench.consumer)
    messages = await puller.pull(len(bodies))
    while len(messages) < len(bodies):
        messages += await puller.pull(len(bodies) - len(messages))
    for message in messages * times:
        await DeadLetters(bench.connection, prefix=bench.dead.name).publish(message, kind, reason)
    await puller.ack(messages)
    await puller.flush()
    await puller.aclose()
    return await letters_in(bench)


async def letters_in(bench: Bench) -> list[Letter]:
    """Return the complete dead letters."""
    state = (await (await jetstream(bench.connection)).stream_info(bench.dead.name)).state
    found = [await reader_of(bench).find(number) for number in range(1, state.last_seq + 1)]
    return [letter for letter in found if letter is not None]


async def events_in(bench: Bench) -> list[Any]:
    """Return the messages of the events stream, in order."""
    js = await jetstream(bench.connection)
    state = (await js.stream_info(bench.stream.name)).state
    return [await js.get_msg(bench.stream.name, number, direct=True) for number in range(1, state.last_seq + 1)]
