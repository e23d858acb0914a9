"""The past of a stream into a sink: what a new destination, or one that lost something, is filled from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec
import structlog

from consumers.carry import Rejections, emit_patiently
from noetl_events.jetstream.delivery import NoPublisher, delivery_of, event_of
from noetl_events.json_values import MalformedEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from noetl_events.envelope import ExecutorEvent
    from noetl_events.jetstream.delivery import Message
    from noetl_events.jetstream.history import History
    from noetl_events.sink import EventSink

MAX_FAULTS: Final = 1_000

log = structlog.get_logger()


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """A message that became nothing at the destination, and why."""

    sequence: int
    kind: Literal["malformed", "rejected", "conflict"]
    reason: str


class Rebuilt(msgspec.Struct, kw_only=True):
    """
    What became of the messages up to *last_sequence*.

    `conflicts` counts events whose key the destination has for a different one.  `faults` names the first `MAX_FAULTS`
    of those that were left out, and so does the log.
    """

    stored: int = 0
    rejected: int = 0
    conflicts: int = 0
    malformed: int = 0
    last_sequence: int = 0
    faults: list[Fault] = []


class Rebuild:
    """
    Emit what *history* holds, in its order and batch by batch.

    Nothing is buried: whoever projects this stream has done so already.  Running it twice stores nothing twice.

    Args:
        history: to read; it stays open.
        sink: takes the events; it stays open.
        execution: whose events are wanted; None for all.
        patience: seconds to wait while the sink is away.
        batch_size: events emitted at once, at most.
        on_batch: called with the number of messages of each batch once it is settled.

    """

    def __init__(
        self,
        history: History,
        sink: EventSink,
        *,
        execution: int | None = None,
        patience: float = 60.0,
        batch_size: int = 2_000,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.done = Rebuilt()
        """How far it has come: everything up to `last_sequence` is settled."""

        self._history = history
        self._sink = sink
        self._execution = execution
        self._patience = patience
        self._batch_size = batch_size
        self._on_batch = on_batch

    async def run(self) -> Rebuilt:
        """
        Return what became of everything.

        Raises:
            SinkUnavailable: the sink took nothing for *patience* seconds.
            NatsUnavailable: the stream could not be read, for as long as the history has patience.
            StreamReplaced: the stream was created again meanwhile.

        """
        while messages := await self._history.read(self._batch_size):
            await self._carry(messages)
            self.done.last_sequence = self._history.position
            self._on_batch(len(messages))
        return self.done

    async def _carry(self, messages: Sequence[Message]) -> None:
        events = self._decode(messages)
        batch = [event for event, _ in events]
        reasons = await emit_patiently(batch, self._sink, patience=self._patience) if batch else Rejections()
        for place, reason in sorted(reasons.items()):
            self._note(events[place][1], "conflict" if place in reasons.conflicts else "rejected", reason)
        self.done.rejected += len(reasons) - len(reasons.conflicts)
        self.done.conflicts += len(reasons.conflicts)
        self.done.stored += len(batch) - len(reasons)

    def _decode(self, messages: Sequence[Message]) -> list[tuple[ExecutorEvent, Message]]:
        events = []
        for message in messages:
            try:
                event = event_of(message)
            except NoPublisher:
                continue
            except MalformedEvent as exc:
                if self._may_be_wanted(message):
                    self.done.malformed += 1
                    self._note(message, "malformed", str(exc))
            else:
                if self._execution is None or event.execution_id == self._execution:
                    events.append((event, message))
        return events

    def _may_be_wanted(self, message: Message) -> bool:
        # Whose it is cannot be read, only whether it mentions the execution.
        return self._execution is None or str(self._execution).encode() in message.data

    def _note(self, message: Message, kind: Literal["malformed", "rejected", "conflict"], reason: str) -> None:
        if len(self.done.faults) < MAX_FAULTS:
            fault = Fault(sequence=delivery_of(message).sequence, kind=kind, reason=reason)
            self.done.faults.append(fault)
            log.error("event.left_out", kind=kind, sequence=fault.sequence, reason=reason)
