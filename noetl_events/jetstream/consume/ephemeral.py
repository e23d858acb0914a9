"""
A consumer for one read: without acknowledgements, in the memory of the server, deleted when the reader is gone.

Any failure (a reconnection, two missed heartbeats, the loss of the consumer, its leader or a message) ends it.  The
messages returned until then are complete and in order, so another consumer can continue right after them.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import UTC
from typing import TYPE_CHECKING, Any, Final

from nats.errors import Error as NatsError
from nats.js.errors import APIError, NotFoundError

from noetl_events.jetstream.api import jetstream, unavailable
from noetl_events.jetstream.consume.pull_requests import PullBuffer, PullInbox, is_a_refusal, is_an_ending
from noetl_events.jetstream.consumer_config import ConsumerLimits
from noetl_events.jetstream.consumers import make_ephemeral
from noetl_events.jetstream.errors import ConsumerMissing, NatsUnavailable, PermissionDenied, Refused
from noetl_events.jetstream.message import ack_subjects, delivery_of, status_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from noetl_events.jetstream.client import DirectClient
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.message import Message

_EXPIRES: Final = 30.0
# A reader may pause for minutes while its sink is unavailable, and should find its consumer afterwards.
_INACTIVE_THRESHOLD: Final = 300.0
_CLOSE_TIMEOUT: Final = 2.0
_FLUSH_TIMEOUT: Final = 5


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
        self._heartbeat = heartbeat
        self._follows = follows
        self._name = ""
        self._next_subject = ""
        self._is_delivery: Callable[[str], object] | None = None
        self._client: DirectClient | None = None
        self._inbox: PullInbox | None = None
        self._buffer: PullBuffer[Message] = PullBuffer(max_messages=max_messages, max_bytes=max_bytes)
        self._returned = 0
        self._is_idle = False
        self._failure = ""
        self._is_refused = False
        self._arrived = asyncio.Event()
        self._last_arrival = time.monotonic()

    async def open(self, *, start: int | datetime | None, subject: str = "", headers_only: bool = False) -> None:
        """
        Create the consumer; *start* is a sequence, a time, or None for the first message.

        Raises:
            StreamMissing: the stream does not exist.
            Refused: the server refuses such a consumer.
            NatsUnavailable: the server did not answer, or answered with an error.

        """
        self._client = client = await self._connection.client()
        self._connection.on_reconnect(self._on_reconnect)
        try:
            config = _config(start, subject, headers_only=headers_only)
            info = await make_ephemeral(self._connection, self._stream, config)
            self._name, self.pending = info.name, info.num_pending
            self._next_subject = self._connection.api(f"CONSUMER.MSG.NEXT.{self._stream}.{self._name}")
            self._is_delivery = ack_subjects(self._stream, self._name).fullmatch
            self._inbox = PullInbox(
                self._on_message,
                self._on_error,
                next_subject=self._next_subject,
                request_bytes=self._buffer.request_bytes,
                limits=ConsumerLimits(batch=info.config.get("max_batch", 0)),
                options=lambda: {"expires": _EXPIRES, "idle_heartbeat": int(self._heartbeat * 1e9)},
            )
            await self._inbox.open(client)
        except BaseException:
            # A cancelled caller closes nothing, so delete the consumer that the server may have created.
            await self.aclose()
            raise

    async def start(self, *, await_answer: bool = False) -> None:
        """
        Request the first messages, and raise an immediate refusal of the server.

        Args:
            await_answer: True to return only after a message or a heartbeat, which proves that the request is served.

        Raises:
            NatsUnavailable: the request was refused or not answered, or the connection is lost.

        """
        await self._request_more()
        client = await self._connection.client()
        try:
            # The server reports a missing permission before it answers the ping that follows the request.
            await client.flush(timeout=_FLUSH_TIMEOUT)
        except (NatsError, OSError) as exc:
            raise NatsUnavailable(f"cannot ask for messages: {str(exc) or type(exc).__name__}") from exc
        if denial := self._connection.denial(self._next_subject):
            raise PermissionDenied(denial)
        self._raise_failure()
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
        while self._is_unfinished and not self._buffer:
            await self._request_more()
            await self._wait_for_arrival()
        if batch := self._buffer.pop(limit):
            self._count(batch)
            await self._request_more()
        return batch

    async def aclose(self) -> None:
        """Stop receiving, and delete the consumer on the server."""
        client, self._client = self._client, None
        if client is None:
            return
        self._connection.off_reconnect(self._on_reconnect)
        with suppress(NatsError, APIError, OSError, TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                if self._inbox is not None:
                    await self._inbox.close()
                if self._name and client.is_connected:
                    js = client.jetstream(prefix=self._connection.options.api)
                    await js.delete_consumer(self._stream, self._name)

    @property
    def _is_unfinished(self) -> bool:
        return self._follows or self.pending > 0

    async def _request_more(self) -> None:
        inbox = self._inbox
        if inbox is None or self._client is None or self._failure or not self._is_unfinished:
            return
        requests = inbox.requests
        while len(requests) < inbox.most_requests and (room := self._buffer.room(requests.outstanding)):
            self._last_arrival = time.monotonic()
            await inbox.request(room)

    async def _wait_for_arrival(self) -> None:
        self._arrived.clear()
        if not (self._buffer or self._failure or self._is_idle):
            quiet = time.monotonic() - self._last_arrival
            with suppress(TimeoutError):
                async with asyncio.timeout(max(2 * self._heartbeat - quiet, 0)):
                    await self._arrived.wait()
        if self._buffer:
            return
        if not self._failure and time.monotonic() - self._last_arrival >= 2 * self._heartbeat:
            self._failure = f"no heartbeat for {2 * self._heartbeat:g} s"
        # nats-py reports a denied publish through its error callback only.
        if self._failure and (denial := self._connection.denial(self._next_subject)):
            raise PermissionDenied(denial)
        self._raise_failure()
        if self._is_idle:
            await self._count_pending()

    def _raise_failure(self) -> None:
        if self._failure:
            text = f"stream {self._stream} cannot be read: {self._failure}"
            raise Refused(text) if self._is_refused else NatsUnavailable(text)

    async def _count_pending(self) -> None:
        """Check whether the messages that are waited for have been deleted."""
        self._is_idle = False
        js = await jetstream(self._connection)
        try:
            info = await js.consumer_info(self._stream, self._name)
        except NotFoundError as exc:
            raise ConsumerMissing(f"the consumer {self._name} of stream {self._stream} was deleted") from exc
        except (NatsError, APIError) as exc:
            raise unavailable(self._connection, self._connection.api(f"CONSUMER.INFO.{self._stream}"), exc) from exc
        if self._buffer:
            return
        if info.num_pending or (info.delivered is not None and info.delivered.consumer_seq != self._returned):
            raise NatsUnavailable("the server answers and does not deliver its messages")
        self.pending = 0

    def _count(self, batch: list[Message]) -> None:
        first, last = delivery_of(batch[0]), delivery_of(batch[-1])
        if (first.number, last.number) != (self._returned + 1, self._returned + len(batch)):
            raise NatsUnavailable(f"deliveries were lost before sequence {last.sequence}")
        self._returned += len(batch)
        self.pending = last.pending

    def _on_message(self, message: Message) -> bool:
        inbox = self._inbox
        if inbox is None:
            return False
        if not message.reply:
            return self._on_status(inbox, message)
        if self._is_delivery is None or not self._is_delivery(message.reply):
            return False
        self._last_arrival = time.monotonic()
        self._is_idle = False
        inbox.requests.receive()
        self._buffer.put(message)
        self._arrived.set()
        return True

    def _on_status(self, inbox: PullInbox, message: Message) -> bool:
        number, (status, text) = inbox.requests.number(message.subject), status_of(message)
        if number is None or not status:
            return False
        self._last_arrival = time.monotonic()
        if status == "100":
            self._is_idle = True
        elif is_an_ending(status, text):
            inbox.end(number, text)
        elif not self._failure:
            self._is_refused = is_a_refusal(status, text)
            self._failure = f"{status} {text}".strip()
        self._arrived.set()
        return True

    def _on_error(self, exc: Exception) -> None:
        self._failure = self._failure or f"a message could not be processed: {type(exc).__name__}: {exc}"
        self._arrived.set()

    def _on_reconnect(self) -> None:
        self._failure = self._failure or "reconnected"
        self._arrived.set()


def _config(start: int | datetime | None, subject: str, *, headers_only: bool) -> dict[str, Any]:
    config: dict[str, Any] = {
        "ack_policy": "none",
        "deliver_policy": "all",
        "replay_policy": "instant",
        "inactive_threshold": int(_INACTIVE_THRESHOLD * 1e9),
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
