"""Dead-lettering: a message becomes one dead letter, however often it is dead-lettered."""

from __future__ import annotations

import random
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from consumers.dead_letters import DeadLetters
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.consume.puller import Puller
from noetl_events.jetstream.errors import MessageTooLarge

if TYPE_CHECKING:
    from tests.projector.bench import Bench


async def test_published_twice_is_one_dead_letter(bench: Bench) -> None:
    """A message dead-lettered twice, as after a crash before its ack, leaves one dead letter."""
    await bench.publish([b"malformed"])
    puller = Puller(bench.connection, bench.consumer)
    [message] = await puller.pull(1)
    letters = DeadLetters(bench.connection, prefix=bench.dead.name)
    await letters.publish(message, "malformed", "body: no")
    await letters.publish(message, "malformed", "body: no")
    await puller.aclose()

    assert len(await bench.dead_letters()) == 1


async def dead_letter_of(bench: Bench, body: bytes, headers: dict[str, str] | None = None) -> Any:
    """Return the dead letter of a message with *body*."""
    js = await jetstream(bench.connection)
    await js.publish(f"{bench.stream.name}.x", body, headers=headers)
    puller = Puller(bench.connection, bench.consumer)
    [message] = await puller.pull(1)
    await DeadLetters(bench.connection, prefix=bench.dead.name).publish(message, "malformed", "body: no")
    await puller.aclose()
    [letter] = await bench.dead_letters()
    return letter


async def test_message_of_the_largest_size_becomes_a_dead_letter(bench: Bench) -> None:
    """A body that does not fit beside the dead letter's headers is compressed, and the connection stays."""
    body = b"x" * (await bench.connection.client()).max_payload
    letter = await dead_letter_of(bench, body)

    assert letter.headers["Noetl-Encoding"] == "zlib"
    assert zlib.decompress(letter.data) == body


async def test_too_large_message_is_refused_and_the_connection_stays(bench: Bench) -> None:
    """A body that does not compress is refused locally: sending it would close the connection, repeatedly."""
    client = await bench.connection.client()

    with pytest.raises(MessageTooLarge, match="raise it there"):
        await dead_letter_of(bench, random.Random(1).randbytes(client.max_payload))
    assert client.is_connected


async def test_headers_with_unusual_names_are_renamed(bench: Bench) -> None:
    """A header with an unusual name does not prevent the dead letter."""
    js = await jetstream(bench.connection)
    client = await bench.connection.client()
    body = b"malformed"
    block = "NATS/1.0\r\n(odd): é\r\ntraceparent: 00-1-2-01\r\n\r\n".encode()
    command = b"HPUB %b.x %d %d\r\n%b%b\r\n" % (bench.stream.name.encode(), len(block), len(block + body), block, body)
    await client._send_command(command)
    await client.flush()
    puller = Puller(bench.connection, bench.consumer)
    [message] = await puller.pull(1)
    await DeadLetters(bench.connection, prefix=bench.dead.name).publish(message, "malformed", "body: no")
    await puller.aclose()
    letter = await js.get_msg(bench.dead.name, 1, direct=True)

    assert letter.headers is not None
    assert letter.headers["Noetl-Header-%28odd%29"] == "é"
    assert letter.headers["Noetl-Header-traceparent"] == "00-1-2-01"
