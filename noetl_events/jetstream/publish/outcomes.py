"""
The outcomes of a publisher's messages.

    stored     the stream has the message
    refused    the stream will never accept the message, so its call raises `EventsRejected`
    failed     the call of the message raises `NatsUnavailable`, and its caller publishes all of it again later

A message that was sent and has none of these outcomes is uncertain: it may be stored, so it is sent again by its id.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.publish.message import PublishCounts, unfinished

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from noetl_events.jetstream.publish.expected_stream import ExpectedStream, StreamProblem
    from noetl_events.jetstream.publish.message import Outgoing
    from noetl_events.jetstream.publish.queue import PublishQueue

_NO_ANSWER: Final = "no answer"


class Outcomes:
    """
    Record the outcome of each message: at its call, in the counts and in the queue.

    Args:
        queue: queue of the publisher.
        expected: stream that has to answer.
        timeout: seconds between queueing a message and its deadline.
        lookup_after: seconds without an answer after which the cause is looked up.

    """

    def __init__(self, queue: PublishQueue, expected: ExpectedStream, *, timeout: float, lookup_after: float) -> None:
        self.counts = PublishCounts()
        self.last_sequence = 0
        """Stream sequence of the message stored last."""
        self.reason = _NO_ANSWER
        """Reason why messages are without an outcome."""
        self.silent_since: float | None = None
        """Time of the first plain publish that the stream left without an answer; None after an answer."""

        self._queue = queue
        self._expected = expected
        self._timeout = timeout
        self._lookup_after = lookup_after

    def admit(self, messages: list[Outgoing], limit: int) -> list[Outgoing]:
        """Return the messages of *messages* that may be sent now, with *limit* bytes at most; the others end."""
        now = time.monotonic()
        if all(message.size <= limit and message.deadline > now for message in messages):
            return messages
        self.refuse_oversize(messages, limit)
        self.fail_expired(messages)
        self._queue.release([message for message in messages if message.is_finished()])
        return unfinished(messages)

    def store(self, messages: Sequence[Outgoing], sequence: int) -> None:
        """Record that *messages* are stored, the last of them with the stream sequence *sequence*."""
        self.silent_since = None
        self.reason = _NO_ANSWER
        self.last_sequence = sequence
        self.counts.stored += len(messages)
        for message in messages:
            message.store()
        self._queue.release(messages)

    def refuse(self, message: Outgoing, reason: str) -> None:
        """Record that the stream will never accept *message*."""
        self.counts.refused += 1
        message.refuse(reason)

    def refuse_oversize(self, messages: Iterable[Outgoing], limit: int) -> None:
        """Refuse the messages above *limit* bytes: for such a message the server would close the connection."""
        for message in messages:
            if message.size > limit and not message.is_finished():
                self.refuse(message, f"{message.size} bytes with its headers; the server takes {limit} (max_payload)")

    def mark_uncertain(self, messages: Iterable[Outgoing]) -> None:
        """Record that *messages* may be stored, so their ids never join a fast-ingest batch again."""
        uncertain = [message for message in messages if not self._queue.is_uncertain(message)]
        self.counts.sent_again += len(uncertain)
        self._queue.mark_uncertain(uncertain)

    def fail_expired(self, messages: Iterable[Outgoing], reason: str = "") -> None:
        """Fail the calls of the messages that are past their deadline, or wait for a stream that will not answer."""
        now, problem = time.monotonic(), self._expected.problem
        for message in messages:
            if problem is not None and self._is_affected(message, problem, now):
                explained = self._expected.explain_silence(message.subject, 0.0, is_untaken=False)
                message.fail(problem.error, message.call.with_state(explained))
            elif message.deadline <= now:
                message.fail(NatsUnavailable, message.call.with_state(reason or self.reason))

    def _is_affected(self, message: Outgoing, problem: StreamProblem, now: float) -> bool:
        """Return True if *problem* was found while *message* waits; an older one may be repaired."""
        queued = message.deadline - self._timeout
        return now >= message.deadline or (problem.found_at >= queued and now - queued >= self._lookup_after)
