"""
A simulated durable consumer: pull requests, deliveries, acknowledgements, redelivery, and the pin of an exclusive one.

    $JS.API.CONSUMER.MSG.NEXT.<stream>.<name>     requests, and their ends
    $JS.ACK.<stream>.<name>...                    +ACK and +WPI
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from noetl_events.jetstream.consumer_config import config_of
from noetl_events.jetstream.consumers import ConsumerInfo, SequenceInfo
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from noetl_events.jetstream.declarations import ConsumerDeclaration
    from tests.simulation.network import Command, Server, SimClient

_TICK: Final = 0.2
START_NS: Final = 1_780_000_000_000_000_000


class _Request:
    """A waiting pull request."""

    def __init__(self, command: Command, now: float) -> None:
        body = json.loads(command.data)
        self.client: SimClient = command.client
        self.epoch = command.client.epoch
        self.reply = command.reply
        self.left: int = body["batch"]
        self.is_empty = body["max_bytes"] == 1
        self.expires = now + body["expires"] / 1e9
        self.pin: str = body.get("id", "")

    @property
    def is_known(self) -> bool:
        """True if the server believes that the reply subject has a subscriber."""
        return self.client.is_known(self.epoch, self.reply)


class Consumer:
    """
    A simulated durable consumer.

    Args:
        server: server of the consumer.
        declared: declaration of the code under test.
        messages: bodies of all present and future messages.  Their place counts from 1; a stream created again starts
            behind the last message of the old one, with sequence 1.
        on_ack: callback for each acknowledged place.

    """

    def __init__(
        self,
        server: Server,
        declared: ConsumerDeclaration,
        messages: Sequence[bytes],
        on_ack: Callable[[int], None],
    ) -> None:
        self.declared = declared
        self.messages = messages
        self.available = 0
        """The number of messages that are in the stream so far."""
        self.acked: set[int] = set()
        self.gone: set[int] = set()
        """The messages that were unacknowledged when their stream was deleted."""
        self.attempts: dict[int, int] = {}
        self.bases = [0]
        """The last place before each stream that existed."""
        self.created = 0
        self.has_stream = True
        self.delivered = 0
        self.edits: dict[str, Any] = {}
        """The configuration fields that an operator has changed; a filter leaves out every third message."""
        self.skipped: set[int] = set()
        """The messages that a filter has left out."""
        self.is_paused = False
        self.refusal = ""
        """The answer to every request, if any."""
        self.refused = 0
        """The number of requests that got this answer."""
        self._looked = 0
        self._settled: set[int] = set()
        self._settled_before = 0
        self._on_ack = on_ack
        self._number = 0
        self._numbers: dict[int, int] = {}
        self._seen: set[int] = set()
        self._pending: dict[int, float] = {}
        self._again: list[int] = []
        self._requests: deque[_Request] = deque()
        self._pin = ""
        self._pins = 0
        self._pin_until = 0.0
        self._loop = asyncio.get_running_loop()
        server.route(f"$JS.API.CONSUMER.MSG.NEXT.{declared.stream}.{declared.name}", self._ask)
        server.route("$JS.ACK.", self._settle)

    @property
    def floor(self) -> int:
        """The last place up to which every delivery is acknowledged, without regard to messages left out."""
        waiting = min([*self._pending, *self._again], default=self.delivered + 1)
        return max((place for place in self._seen if place < waiting), default=self._settled_before)

    @property
    def left(self) -> list[int]:
        """The places that are still to be acknowledged."""
        return [place for place in range(1, len(self.messages) + 1) if place not in self.acked | self.gone]

    @property
    def last_sequence(self) -> int:
        """The sequence of the stream's last message."""
        return self.available - self.bases[-1]

    def sequence_of(self, place: int) -> int:
        """Return the stream sequence of a message."""
        return place - max(base for base in self.bases if base < place)

    def info(self) -> ConsumerInfo:
        """Return the answer of `ensure_consumer`."""
        base = self.bases[-1]
        return ConsumerInfo(
            stream_name=self.declared.stream,
            name=self.declared.name,
            created=f"{self.created}",
            config=config_of(self.declared) | self.edits,
            delivered=SequenceInfo(self.delivered - base, self._number),
            ack_floor=SequenceInfo(self.floor - base, min(self._numbers.values(), default=self._number + 1) - 1),
            num_ack_pending=len(self._pending) + len(self._again),
            num_pending=self.available - self._looked,
            paused=self.is_paused,
            pause_remaining=3_600_000_000_000 if self.is_paused else 0,
        )

    def reset(self, start: int = 0) -> None:
        """Start again at *start*, or behind the last contiguous acknowledgement; all delivery counts restart."""
        place = self.bases[-1] + start
        if start:
            before = set(range(self.bases[-1] + 1, place))
            if lost := before - self._settled:
                raise Violation(f"set forward to {start}, over what was never acknowledged: {sorted(lost)}")
            self.acked = {each for each in self.acked if each < place} | before
        self._go_on_behind(place - 1 if start else self.floor)

    def _go_on_behind(self, place: int) -> None:
        self.delivered = self._looked = self._settled_before = place
        self._seen.clear()
        self._number = 0
        self._numbers.clear()
        self._pending.clear()
        self._again.clear()
        self.attempts.clear()

    def delete(self) -> None:
        """Delete the consumer, and create it again at the start of the stream."""
        self.acked = {place for place in self.acked if place <= self.bases[-1]}
        self._go_on_behind(self.bases[-1])
        self.edits = {}
        self.is_paused = False
        self.created += 1
        self._pin = ""
        self.restart("Consumer Deleted")

    def lose_stream(self) -> None:
        """Delete the stream with its consumer and messages."""
        self.gone |= set(range(1, self.available + 1)) - self.acked
        self.bases += [self.available] if self.available > self.bases[-1] else []
        self.has_stream = False
        self.delete()

    def have_stream(self) -> None:
        """Create the stream and its consumer again, empty."""
        self.has_stream = True

    def unpin(self) -> None:
        """Serve another client from now on."""
        self._pin = ""
        self.pump()

    def restart(self, text: str) -> None:
        """Drop every request with a status, as after a change of leader or a stop of the server."""
        requests, self._requests = self._requests, deque()
        for request in requests:
            request.client.answer(request.reply, headers={"Status": f"409 {text}"})

    async def run(self) -> None:
        """Redeliver and expire as time passes, until cancelled."""
        while True:
            await asyncio.sleep(_TICK)
            now = self._loop.time()
            late = [place for place, when in self._pending.items() if when <= now]
            for place in late:
                del self._pending[place]
            self._again = sorted({*self._again, *late})
            if self._pin and now > self._pin_until:
                self._pin = ""
            self._expire(now)
            self.pump()

    def pump(self) -> None:
        """Deliver as many messages as possible."""
        while (request := self._next_request()) is not None:
            if (place := self._next_place()) is None:
                return
            self._deliver(request, place)

    def _next_request(self) -> _Request | None:
        if self.is_paused:
            return None
        for request in self._requests:
            if request.is_empty or not request.is_known:
                continue
            if not self.declared.exclusive or not self._pin or request.pin == self._pin:
                return request
        return None

    def _next_place(self) -> int | None:
        while self._again:
            place = self._again.pop(0)
            if place not in self.acked:
                return place
        while self._looked < self.available and len(self._pending) < self.declared.max_ack_pending:
            self._looked += 1
            if "filter_subject" in self.edits and self._looked % 3 == 0:
                self.skipped.add(self._looked)
                continue
            self.delivered = self._looked
            self._seen.add(self.delivered)
            if self.delivered not in self.acked:
                return self.delivered
        return None

    def _deliver(self, request: _Request, place: int) -> None:
        if self.declared.exclusive and not self._pin:
            self._pins += 1
            self._pin = f"pin{self._pins}"
            self._pin_until = self._loop.time() + self.declared.pin_ttl
        headers = {"Nats-Pin-Id": self._pin} if self.declared.exclusive else None
        self._number += 1
        self._numbers.setdefault(place, self._number)
        attempt = self.attempts[place] = self.attempts.get(place, 0) + 1
        self._pending[place] = self._loop.time() + self.declared.ack_wait
        words = (self.declared.stream, self.declared.name, attempt, self.sequence_of(place), self._number)
        ack = f"$JS.ACK.{'.'.join(map(str, words))}.{stored_ns(place)}.{self.available - self._looked}"
        request.client.answer(request.reply, self.messages[place - 1], headers, reply=ack, shown="noetl.events.x")
        request.left -= 1
        if not request.left:
            self._requests.remove(request)

    def _ask(self, command: Command) -> None:
        request = _Request(command, self._loop.time())
        if self.refusal:
            self.refused += 1
            request.client.answer(request.reply, headers={"Status": self.refusal})
            return
        if not self.has_stream:
            request.client.answer(request.reply, headers={"Status": "503"})
            return
        if request.pin and request.pin != self._pin:
            request.client.answer(request.reply, headers={"Status": "423 Nats-Wrong-Pin-Id"})
            return
        if request.pin:
            self._pin_until = self._loop.time() + self.declared.pin_ttl
        self._requests.append(request)
        self.pump()

    def _settle(self, command: Command) -> None:
        # The server reads only the sequence of the ack subject, whichever stream that was from.
        place = int(command.subject.split(".")[5]) + self.bases[-1]
        if place not in self._pending and place not in self._again:
            return
        if command.data == b"+ACK":
            self._on_ack(place)
            self.acked.add(place)
            self._settled.add(place)
            self._pending.pop(place, None)
            self._numbers.pop(place, None)
        elif command.data == b"-NAK":
            self._pending.pop(place, None)
            self._again = sorted({*self._again, place} - self.acked)
        elif place in self._pending:
            self._pending[place] = self._loop.time() + self.declared.ack_wait
        self.pump()

    def _expire(self, now: float) -> None:
        for request in list(self._requests):
            if not request.is_known:
                self._requests.remove(request)
            elif now >= request.expires:
                self._end(request, "408 Request Timeout")

    def _end(self, request: _Request, status: str) -> None:
        self._requests.remove(request)
        request.client.answer(request.reply, headers={"Status": status})


def stored_ns(place: int) -> int:
    """Return the time at which the message at *place* was stored."""
    return START_NS + place * 1_000_000


def place_of(stored: int) -> int:
    """Return the place of the message that was stored at this time, in Unix nanoseconds."""
    return (stored - START_NS) // 1_000_000
