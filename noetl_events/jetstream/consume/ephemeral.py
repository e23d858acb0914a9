"""
A consumer for one read: without acknowledgements, in the memory of the server, deleted when the reader is gone.

Any failure (a reconnection, two missed heartbeats, the loss of the consumer, its leader or a message) ends it.  The
messages returned until then are complete and in order, so another consumer can continue right after them.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from datetime import UTC
from typing import TYPE_CHECKING, Any, Final

from nats.errors import Error as NatsError
from nats.js.errors import APIError, NotFoundError

from noetl_events.jetstream.api import jetstream, unavailable
from noetl_events.jetstream.consume.pull_requests import PullBuffer, is_a_refusal, is_an_ending
from noetl_events.jetstream.consumers import make_ephemeral
from noetl_events.jetstream.errors import ConsumerMissing, NatsUnavailable, PermissionDenied, Refused
from noetl_events.jetstream.message import ack_subjects, delivery_of, status_of

if TYPE_CHECKING:
    import re
    from datetime import datetime

    from nats.aio.subscription import Subscription

    from noetl_events.jetstream.client import DirectClient
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.message import Message

_EXPIRES: Final = 30.0
_HEADER_ROOM: Final = 65_536
# A reader may pause for minutes while its sink is unavailable, and should find its consumer afterwards.
_FORGOTTEN_AFTER: Final = 300.0
_FAREWELL: Final = 2.0
# A small `max_batch` of the consumer limits each request, so more of them are in flight.
_SMALL_REQUESTS: Final = 8
_FLUSH: Final = 5


class EphemeralConsumer:
    """
    Pull the messages of *stream* from a given position.

    Args:
        connection: connection to NATS; it is not closed here.
        stream: name of the stream.
        max_messages: most messages buffered and requested.
        max_bytes: most bytes buffered and requested; a single message of any size always passes.
        heartbeat: seconds between two heartbeats of an idle server; after twice as long the server counts as lost.
        follows: True to wait for new messages at the end of the stream.

    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        *,
        max_messages: int = 8_000,
        max_bytes: int = 32 * 1024 * 1024,
        heartbeat: float = 5.0,
        follows: bool = False,
    ) -> None:
        self.pending = 0
        """Messages after the last one returned, as counted by the server when it sent that one."""

        self._connection = connection
        self._stream = stream
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._heartbeat = heartbeat
        self._follows = follows
        self._name = ""
        self._inbox = ""
        self._is_delivery: re.Pattern[str] | None = None
        self._client: DirectClient | None = None
        self._subscription: Subscription | None = None
        self._buffer: PullBuffer[Message] = PullBuffer()
        self._most = 0
        self._outstanding = 0
        self._taken = 0
        self._oversized = False
        self._idle = False
        self._broken = ""
        self._is_refused = False
        self._arrived = asyncio.Event()
        self._heard = time.monotonic()

    async def open(self, *, start: int | datetime | None, subject: str = "", headers_only: bool = False) -> None:
        """
        Create the consumer; *start* is a sequence, a time, or None for the first message.

        Raises:
            StreamMissing: the stream does not exist.
            Refused: the server refuses such a consumer.
            NatsUnavailable: the server did not answer, or answered with an error.

        """
        config = _config(start, subject, headers_only=headers_only)
        try:
            await self._subscribe(await self._connection.client())
            info = await make_ephemeral(self._connection, self._stream, config)
        except (NatsError, OSError) as exc:
            await self.aclose()
            raise unavailable(self._connection, self._connection.api(f"CONSUMER.CREATE.{self._stream}"), exc) from exc
        except NatsUnavailable:
            await self.aclose()
            raise
        self._name = info.name
        self._is_delivery = ack_subjects(self._stream, self._name)
        self._most = info.config.get("max_batch", 0)
        self.pending = info.num_pending

    async def begin(self, *, await_answer: bool = False) -> None:
        """
        Request the first messages, and raise an immediate refusal of the server.

        Args:
            await_answer: True to return only after a message or a heartbeat, which proves that the request is served.

        Raises:
            NatsUnavailable: the request was refused or not answered, or the connection is lost.

        """
        await self._keep_asking()
        client = await self._connection.client()
        try:
            # The server reports a missing permission before it answers the ping that follows the request.
            await client.flush(timeout=_FLUSH)
        except (NatsError, OSError) as exc:
            raise NatsUnavailable(f"cannot ask for messages: {str(exc) or type(exc).__name__}") from exc
        if denial := self._connection.denial(self._next_subject):
            raise PermissionDenied(denial)
        if self._broken:
            raise self._failure()
        if await_answer:
            await self._wait_for_arrival()

    async def pull(self, limit: int) -> list[Message]:
        """
        Return the next 1 to *limit* messages, and wait for the first.

        The list is empty if no message is left after the last one; a following consumer waits instead.

        Raises:
            Refused: the server refuses the requests of this consumer.
            NatsUnavailable: the consumer has failed; create another.

        """
        while (self.pending or self._follows) and not self._buffer:
            await self._keep_asking()
            await self._wait_for_arrival()
        if batch := self._buffer.take(limit):
            self._count(batch)
            await self._keep_asking()
        return batch

    async def aclose(self) -> None:
        """Clear the buffer, and delete the consumer on the server."""
        client, self._client = self._client, None
        subscription, self._subscription = self._subscription, None
        if client is None:
            return
        self._connection.off_reconnect(self._on_reconnect)
        with suppress(NatsError, APIError, OSError, TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                if subscription is not None:
                    await subscription.unsubscribe()
                if self._name and client.is_connected:
                    await client.jetstream(prefix=self._connection.options.api).delete_consumer(
                        self._stream, self._name
                    )

    async def _subscribe(self, client: DirectClient) -> None:
        self._client, self._inbox = client, client.new_inbox()
        self._connection.on_reconnect(self._on_reconnect)
        self._subscription = await client.subscribe_direct(f"{self._inbox}.*", self._on_message, self._on_error)

    async def _keep_asking(self) -> None:
        room = self._max_messages - len(self._buffer) - self._outstanding
        if not (self.pending or self._follows) or self._broken or self._client is None:
            return
        if self._most and self._outstanding > self._most * _SMALL_REQUESTS:
            return
        if room >= self._max_messages // 2 and self._buffer.bytes <= self._max_bytes // 2:
            await self._ask(self._client, min(room, self._most or room))

    async def _ask(self, client: DirectClient, room: int) -> None:
        request: dict[str, Any] = {
            "batch": room,
            # Two requests in flight and half a buffer add up to the maximum.
            "max_bytes": max(self._max_bytes // 4, client.max_payload + _HEADER_ROOM),
            "expires": int(_EXPIRES * 1e9),
            "idle_heartbeat": int(self._heartbeat * 1e9),
        }
        if self._oversized:
            # The message was stored when the server accepted larger messages, so request it alone and without limit.
            request["batch"], request["max_bytes"] = 1, 0
        self._oversized = False
        self._heard = time.monotonic()
        try:
            await client.publish(self._next_subject, json.dumps(request).encode(), reply=f"{self._inbox}.next")
        except (NatsError, OSError) as exc:
            raise NatsUnavailable(f"cannot ask for messages: {str(exc) or type(exc).__name__}") from exc
        self._outstanding += request["batch"]

    @property
    def _next_subject(self) -> str:
        return self._connection.api(f"CONSUMER.MSG.NEXT.{self._stream}.{self._name}")

    async def _wait_for_arrival(self) -> None:
        self._arrived.clear()
        if not (self._buffer or self._broken or self._idle):
            quiet = time.monotonic() - self._heard
            with suppress(TimeoutError):
                async with asyncio.timeout(max(2 * self._heartbeat - quiet, 0)):
                    await self._arrived.wait()
        if self._buffer:
            return
        self._require_life()
        if self._idle:
            await self._recount()

    def _require_life(self) -> None:
        if not self._broken and time.monotonic() - self._heard >= 2 * self._heartbeat:
            self._broken = f"no heartbeat for {2 * self._heartbeat:g} s"
        if not self._broken:
            return
        # nats-py reports a denied publish through its error callback only.
        if denial := self._connection.denial(self._next_subject):
            raise PermissionDenied(denial)
        raise self._failure()

    def _failure(self) -> NatsUnavailable:
        words = f"stream {self._stream} cannot be read: {self._broken}"
        return Refused(words) if self._is_refused else NatsUnavailable(words)

    async def _recount(self) -> None:
        """Check whether the messages that are waited for have been deleted."""
        self._idle = False
        js = await jetstream(self._connection)
        try:
            info = await js.consumer_info(self._stream, self._name)
        except NotFoundError as exc:
            raise ConsumerMissing(f"the consumer {self._name} of stream {self._stream} was deleted") from exc
        except (NatsError, APIError) as exc:
            raise unavailable(self._connection, self._connection.api(f"CONSUMER.INFO.{self._stream}"), exc) from exc
        if self._buffer:
            return
        if info.num_pending or (info.delivered is not None and info.delivered.consumer_seq != self._taken):
            raise NatsUnavailable("the server answers and does not deliver its messages")
        self.pending = 0

    def _count(self, batch: list[Message]) -> None:
        first, last = delivery_of(batch[0]), delivery_of(batch[-1])
        if (first.number, last.number) != (self._taken + 1, self._taken + len(batch)):
            raise NatsUnavailable(f"deliveries were lost before sequence {last.sequence}")
        self._taken += len(batch)
        self.pending = last.pending

    def _on_message(self, message: Message) -> bool:
        if not message.reply:
            return self._on_status(message)
        if self._is_delivery is None or not self._is_delivery.fullmatch(message.reply):
            return False
        self._heard = time.monotonic()
        self._idle = False
        self._outstanding -= 1
        self._buffer.put(message)
        self._arrived.set()
        return True

    def _on_status(self, message: Message) -> bool:
        status, text = status_of(message)
        if not status:
            return False
        self._heard = time.monotonic()
        if status == "100":
            self._idle = True
        elif is_an_ending(status, text):
            left = (message.headers or {}).get("Nats-Pending-Messages", "0")
            self._outstanding -= int(left) if left.isascii() and left.isdecimal() else 0
            self._oversized = "Exceeds" in text
        else:
            self._is_refused = self._is_refused or (not self._broken and is_a_refusal(status, text))
            self._broken = self._broken or f"{status} {text}".strip()
        self._arrived.set()
        return True

    def _on_error(self, exc: Exception) -> None:
        self._broken = self._broken or f"a message could not be processed: {type(exc).__name__}: {exc}"
        self._arrived.set()

    def _on_reconnect(self) -> None:
        self._broken = self._broken or "reconnected"
        self._arrived.set()


def _config(start: int | datetime | None, subject: str, *, headers_only: bool) -> dict[str, Any]:
    config: dict[str, Any] = {
        "ack_policy": "none",
        "deliver_policy": "all",
        "replay_policy": "instant",
        "inactive_threshold": int(_FORGOTTEN_AFTER * 1e9),
        "mem_storage": True,
    }
    if isinstance(start, int):
        config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": start}
    elif start is not None:
        config |= {"deliver_policy": "by_start_time", "opt_start_time": start.astimezone(UTC).isoformat()}
    if subject:
        config["filter_subject"] = subject
    if headers_only:
        config["headers_only"] = True
    return config
