"""
What is sent how, and what is sent again.

    first attempt                      outcome                         then
    ---------------------------------  ------------------------------  ---------------------------------
    batch, fast-ingest or atomic       PubAck over all of it           stored
                                       anything else                   all of it again, by plain publish
                                       batches unsupported             plain publish, now and ever after
    plain publish                      sequence above 0                stored
                                       too large for the stream        rejected
                                       id in process, election,
                                       no answer, connection lost      again, until the deadline
                                       stream full, denied, missing    the call fails: emit again, later

An id whose outcome was ever unknown is never part of a batch again (see `fast_batch`).  A second attempt keeps at
most one message of each lane under way, so that none overtakes the one before it.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Final, Literal

import structlog

from noetl_events.jetstream.atomic_batch import EXTRA_BYTES, send_atomic_batch
from noetl_events.jetstream.batch_outcome import BatchesUnsupported, BatchFailed
from noetl_events.jetstream.errors import NatsUnavailable, PermissionDenied, StreamMissing
from noetl_events.jetstream.fast_batch import send_fast_batch
from noetl_events.jetstream.inbox import SILENCE, ReplyInbox
from noetl_events.jetstream.plain_window import Window
from noetl_events.jetstream.publish_counts import PublishCounts
from noetl_events.jetstream.replies import Verdict, explain, is_no_responders, judge
from noetl_events.recent_ids import RecentIds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nats.aio.client import Client

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.outgoing import Outgoing
    from noetl_events.jetstream.replies import Reply

Mode = Literal["fast", "atomic", "plain"]

_ELECTION: Final = 5.0
"""Seconds a subject may go without a taker before its stream counts as missing."""

_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.5

log = structlog.get_logger()


class Sender:
    """
    Take batches one after the other, and give each message of them its outcome.

    Args:
        connection: to NATS; it stays open.
        timeout: seconds the messages of it were given when they were queued.
        mode: how batches go, as long as the stream takes them.

    """

    def __init__(self, connection: Connection, *, timeout: float, mode: Mode) -> None:
        self._first_patience = min(SILENCE, timeout)
        self.mode = mode
        self.counts = PublishCounts()
        self._inbox = ReplyInbox(connection)
        self._uncertain = RecentIds()
        self._untaken_since: float | None = None

    def is_uncertain(self, message: Outgoing) -> bool:
        """Whether *message* was sent before with an outcome that stayed unknown: keep it apart from others."""
        return message.event_id in self._uncertain

    async def send(self, batch: Sequence[Outgoing]) -> None:
        """Return when every message of *batch* has its outcome or its call failed; all are uncertain or none is."""
        try:
            await self._send(batch)
        except NatsUnavailable as exc:
            for message in batch:
                message.fail(type(exc), str(exc))
        except BaseException:
            self._doubt(batch)
            raise

    async def aclose(self) -> None:
        """Release the inbox."""
        await self._inbox.aclose()

    async def _send(self, batch: Sequence[Outgoing]) -> None:
        if self.is_uncertain(batch[0]):
            await self._settle_in_lanes(batch)
        elif len(batch) == 1 or self.mode == "plain":
            await self._settle_window(batch)
        else:
            await self._send_batch(batch)

    async def _send_batch(self, batch: Sequence[Outgoing]) -> None:
        client = await self._reach(batch)
        batch = self._still_wanted(batch)
        if client is None or not batch:
            return
        if self.mode == "atomic" and any(message.size + EXTRA_BYTES > client.max_payload for message in batch):
            await self._settle_window(batch)
            return
        send = send_atomic_batch if self.mode == "atomic" else send_fast_batch
        try:
            await send(self._inbox, client, batch, self._patience(batch))
        except BatchesUnsupported as exc:
            self._fall_back(str(exc))
            await self._settle_window(batch)
        except BatchFailed as exc:
            log.warning("publisher.sending_again", events=len(batch), reason=str(exc))
            self._doubt(batch)
            await self._settle_in_lanes(batch)
        else:
            self._untaken_since = None
            self.counts.batches += 1
            self.counts.stored += len(batch)
            for message in batch:
                message.store()

    async def _settle_window(self, batch: Sequence[Outgoing]) -> None:
        """Send all at once; what is not settled then goes in lanes."""
        if (client := await self._reach(batch)) and (batch := self._still_wanted(batch)):
            again = await self._send_window(client, batch, self._patience(batch))
            await self._settle_in_lanes(again)

    async def _settle_in_lanes(self, batch: Sequence[Outgoing]) -> None:
        for wave in _waves(batch):
            await self._settle_wave(wave)

    async def _settle_wave(self, wave: Sequence[Outgoing]) -> None:
        pause = _FIRST_PAUSE
        while client := await self._reach(wave):
            wave = self._still_wanted(wave)
            wave = await self._send_window(client, wave, min((message.deadline for message in wave), default=0.0))
            if not wave:
                return
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _send_window(self, client: Client, messages: Sequence[Outgoing], deadline: float) -> list[Outgoing]:
        """Send *messages* once and return those to send again."""
        window = Window(messages)
        await window.send(self._inbox, client, deadline)
        again = [message for message, reply in window.answered if not self._settle(message, reply, window)]
        self._doubt(again)
        self._expire(again, window.silence)
        return again

    def _settle(self, message: Outgoing, reply: Reply | None, window: Window) -> bool:
        """Give *message* the outcome that *reply* means; return False if it has to be sent again."""
        if reply is None and _is_denied(message, window.denial):
            message.fail(PermissionDenied, window.denial)
            return True
        self._watch_for_takers(message, reply)
        match judge(reply):
            case Verdict.STORED:
                self.counts.stored += 1
                message.store()
            case Verdict.REFUSED:
                self.counts.refused += 1
                message.refuse(explain(reply))
            case Verdict.UNAVAILABLE:
                raise NatsUnavailable(explain(reply))
            case Verdict.AGAIN:
                if reply is not None:
                    window.silence = explain(reply)
                return False
        return True

    def _watch_for_takers(self, message: Outgoing, reply: Reply | None) -> None:
        if not is_no_responders(reply):
            if reply is not None:
                self._untaken_since = None
            return
        now = time.monotonic()
        self._untaken_since = self._untaken_since or now
        if now - self._untaken_since > _ELECTION:
            raise StreamMissing(f"no stream takes {message.subject}; run `noetl-events stream ensure`")

    async def _reach(self, messages: Sequence[Outgoing]) -> Client | None:
        """Return a client once it is connected, or None when none of *messages* is waited for any more."""
        pause = _FIRST_PAUSE
        while self._still_wanted(messages):
            try:
                client = await self._inbox.open()
            except NatsUnavailable as exc:
                self._expire(messages, str(exc))
            else:
                self._refuse_oversize(messages, client.max_payload)
                self._expire(messages, "no answer")
                return client
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(2 * pause, _LONGEST_PAUSE)
        return None

    def _refuse_oversize(self, messages: Sequence[Outgoing], limit: int) -> None:
        # The server would close the connection for good, with everybody else's messages.
        for message in messages:
            if message.size > limit and not message.is_over():
                self.counts.refused += 1
                message.refuse(f"{message.size} bytes with its headers; the server takes {limit} (max_payload)")

    def _expire(self, messages: Sequence[Outgoing], reason: str) -> None:
        now = time.monotonic()
        for message in messages:
            if message.deadline <= now:
                state = "unknown whether stored" if message.sent else "not sent"
                message.fail(NatsUnavailable, f"{state}: {reason}")

    def _still_wanted(self, messages: Sequence[Outgoing]) -> list[Outgoing]:
        return [message for message in messages if not message.is_over()]

    def _doubt(self, messages: Sequence[Outgoing]) -> None:
        self.counts.sent_again += len(messages)
        for message in messages:
            self._uncertain.add(message.event_id)

    def _patience(self, batch: Sequence[Outgoing]) -> float:
        """Return until when a first attempt may take: one that waited long for its turn still gets a fair try."""
        return max(time.monotonic() + self._first_patience, min(message.deadline for message in batch))

    def _fall_back(self, reason: str) -> None:
        self.mode = "plain"
        self.counts.fell_back += 1
        log.warning("publisher.fell_back", mode=self.mode, reason=reason)


def _is_denied(message: Outgoing, denial: str) -> bool:
    words = denial.lower()
    return message.subject.lower() in words or "for subscription" in words


def _waves(batch: Sequence[Outgoing]) -> list[list[Outgoing]]:
    """Return the first message of each lane, then the second of each, and so on."""
    waves: list[list[Outgoing]] = []
    depth: dict[int, int] = {}
    for message in batch:
        turn = depth[message.lane] = depth.get(message.lane, -1) + 1
        if turn == len(waves):
            waves.append([])
        waves[turn].append(message)
    return waves
