"""A stream with scripted answers: it records the messages of a publisher and gives any answer to them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from noetl_events.jetstream.publish.message import Outgoing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nats.aio.client import Client
    from nats.aio.msg import Msg

    Message = dict[str, Any] | bytes
    Answer = Callable[["Received"], "Message | list[Message] | None"]


class Received:
    """A message as the stream receives it."""

    def __init__(self, message: Msg) -> None:
        self.id = int((message.headers or {}).get("Nats-Msg-Id", 0))
        self.reply = message.reply
        self.is_fast = message.reply.endswith(".$FI")
        control = message.reply.split(".") if self.is_fast else ["0", "0", "$FI"]
        self.seq, self.op = int(control[-3]), int(control[-2])
        self.expected_stream = (message.headers or {}).get("Nats-Expected-Stream", "")
        self.atomic = int((message.headers or {}).get("Nats-Batch-Sequence", 0))

    def __repr__(self) -> str:
        kind = f"fast {self.seq}/{self.op}" if self.is_fast else f"atomic {self.atomic}" if self.atomic else "plain"
        return f"{self.id}:{kind}"

    @property
    def ends_batch(self) -> bool:
        """True if the message ends its batch, or says that the message before did."""
        return self.op in {2, 3}

    @property
    def count(self) -> int:
        """The number of messages that the batch has so far."""
        return self.seq - (self.op == 3)


class ScriptedStream:
    """A subscriber that answers as a stream would, or as the test says."""

    def __init__(self, client: Client, subject: str) -> None:
        self.subject = subject
        self.received: list[Received] = []
        self.answer: Answer = stores
        self.sequence = 0
        self._client = client
        self._arrived = asyncio.Event()

    async def take(self, message: Msg) -> None:
        """Record *message* and answer it."""
        received = Received(message)
        self.received.append(received)
        self._arrived.set()
        self.sequence += 1
        if received.reply and (answer := self.answer(received)) is not None:
            await self.send(received, answer)

    async def send(self, received: Received, answer: Message | list[Message]) -> None:
        """Send *answer* to *received* from the test."""
        for each in answer if isinstance(answer, list) else [answer]:
            await self._client.publish(received.reply, each if isinstance(each, bytes) else json.dumps(each).encode())

    async def wait_for(self, messages: int) -> None:
        """Return once *count* messages have arrived."""
        async with asyncio.timeout(180):
            while len(self.received) < messages:
                self._arrived.clear()
                await self._arrived.wait()

    @property
    def log(self) -> str:
        """The received messages, in order."""
        return " ".join(map(repr, self.received))

    def outgoing(self, event_ids: Iterable[int], *, ordering_key: int = 0) -> list[Outgoing]:
        """Return messages for this stream."""
        return [
            Outgoing(self.subject, b"%d" % event_id, b"{}", ordering_key, index=index)
            for index, event_id in enumerate(event_ids)
        ]


def stores(received: Received) -> dict[str, Any] | None:
    """Answer as a stream does that stores every message."""
    if not received.is_fast:
        return {"stream": "S", "seq": received.id}
    return {"stream": "S", "seq": 9, "batch": "b", "count": received.count} if received.ends_batch else None


def never(_received: Received) -> None:
    """Send no answer."""


def ends_batches_with(answer: Message | list[Message]) -> Answer:
    """Answer the end of every batch with *answer*, and store plain messages."""
    return lambda received: answer if received.ends_batch else None if received.is_fast else stores(received)


def acks_every(flow: int, *, then: dict[str, Any] | None = None) -> Answer:
    """Acknowledge every *flow* messages of a batch, end it with *then* or not at all, and store plain messages."""

    def answer(received: Received) -> dict[str, Any] | None:
        if not received.is_fast:
            return stores(received)
        if received.ends_batch:
            return then
        return {"type": "ack", "seq": received.seq, "msgs": flow} if received.seq % flow == 0 else None

    return answer


def error(err_code: int, description: str = "words of the server", code: int = 400) -> dict[str, Any]:
    """Return an answer with an error."""
    return {"error": {"code": code, "err_code": err_code, "description": description}, "stream": "S", "seq": 0}
