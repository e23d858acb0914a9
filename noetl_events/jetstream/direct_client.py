"""
nats-py's client, where it is too slow: messages go straight from its parser, and requests end with the connection.

nats-py 2.16 reads the headers of each message into a dictionary, puts the message into a queue and wakes a task to take
it out: a third of what it costs to receive one, for headers nobody looks at and a queue that is emptied at once.  For a
subscription that takes a hundred thousand a second there is no public way around that, so this file, and no other,
steps in where nats-py has parsed a message.  Where it cannot, messages come the long way;
`tests/jetstream/test_direct_client.py` says which.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from nats.aio.client import Client
from nats.errors import ConnectionReconnectingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from noetl_events.jetstream.delivery import Message

    Take = Callable[[Message], None]


class Arrival:
    """A message as it came; its headers are read when somebody looks at them."""

    __slots__ = ("_head", "data", "reply", "subject")

    def __init__(self, subject: str, reply: str, data: bytes, head: bytes | None) -> None:
        self.subject = subject
        self.reply = reply
        self.data = data
        self._head = head

    @property
    def headers(self) -> dict[str, str] | None:
        """The headers, with `Status` and `Description` when the server itself speaks; None if there are none."""
        return read_headers(self._head) if self._head else None


def read_headers(head: bytes) -> dict[str, str]:
    """Return the headers in *head*: `NATS/1.0[ <status>[ <description>]]`, and a line each; of a name the last."""
    first, *lines = head.decode(errors="surrogateescape").split("\r\n")
    _, _, spoken = first.partition(" ")
    headers: dict[str, str] = {}
    if spoken:
        headers["Status"], _, headers["Description"] = spoken.partition(" ")
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name] = value.strip()
    return headers


class DirectClient(Client):
    """nats-py's client with subscriptions that need no queue, and requests that do not outlive the connection."""

    def __init__(self) -> None:
        super().__init__()
        self._takers: dict[int, Take] = {}
        self._lost: asyncio.Future[None] | None = None

    def lose_requests(self) -> None:
        """End the requests under way: the connection is lost, and their answers with it."""
        if self._lost is not None:
            self._lost.set_result(None)
            self._lost = None

    async def request(self, subject: str, *arguments: Any, **options: Any) -> Msg:
        """
        Return the answer, as nats-py does; all of its JetStream asks by this.

        Raises:
            ConnectionReconnectingError: the connection was lost meanwhile; nats-py would wait out the timeout.
            nats.errors.Error: as nats-py.

        """
        lost = self._lost = self._lost or asyncio.get_running_loop().create_future()
        asked = asyncio.ensure_future(super().request(subject, *arguments, **options))
        try:
            await asyncio.wait([asked, lost], return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                raise ConnectionReconnectingError
            return asked.result()
        finally:
            asked.cancel()

    async def subscribe_direct(self, subject: str, take: Take) -> Subscription:
        """
        Have *take* called with each message of *subject*, in order; it must not raise.

        Raises:
            nats.errors.Error: as `subscribe`.

        """

        async def take_from_queue(message: Any) -> None:
            take(message)

        # Whoever asks for no more than it has room for needs no limit here, which would drop messages in silence.
        subscription = await self.subscribe(subject, cb=take_from_queue, pending_msgs_limit=0, pending_bytes_limit=0)
        self._takers = {sid: taker for sid, taker in self._takers.items() if sid in self._subs}
        self._takers[subscription._id] = take  # noqa: SLF001  (the number the parser calls us with)
        return subscription

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:  # noqa: PLR0917  (as nats-py has it)
        take = self._takers.get(sid)
        if take is None or sid not in self._subs:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        take(Arrival(subject.decode(), reply.decode(), data, headers))
