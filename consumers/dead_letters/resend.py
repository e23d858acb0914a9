"""
Resending dead letters: publish to the original subject, wait until that is stored, then remove the letter.

A crash in between leaves the letter, and resending it again stores nothing twice:

- For as long as the stream remembers ids, by `Nats-Msg-Id`.  The original id would be answered with "duplicate", and
  not delivered.  So the id is `retry:` with the position of the original message, a digest of the body, so that an
  edited body is another message, and the recipient.
- After that by `event_id`: a sink accepts an event twice and stores it once.  An event without an id is given the id
  that its first position in the stream derives.  Its new position would derive another id, and a sink that already has
  the event would store it again.  A body that is no event is sent unchanged.

A message that is rejected again becomes a new letter with a new position.

A resent letter is addressed to the consumer that rejected it, which `Noetl-For` names: projectors of other consumers
acknowledge and skip it.  If that consumer is gone, or the header does not fit, the letter is for all consumers.  A
projector of the first version ignores the header.  Beside a newer one it also stores an event that was sent under a new
id, but only once, because all letters of one message agree on that id.  `Noetl-First` keeps the first position of the
message.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from consumers.dead_letters.letter import FIRST
from noetl_events.envelope import MalformedEvent, decode
from noetl_events.jetstream.consumers import show_consumer
from noetl_events.jetstream.declarations import EVENTS_STREAM, ConsumerDeclaration
from noetl_events.jetstream.errors import ConsumerMissing, MessageTooLarge, NatsUnavailable
from noetl_events.jetstream.message import FOR
from noetl_events.jetstream.storage import store

if TYPE_CHECKING:
    from consumers.dead_letters.letter import Letter
    from consumers.dead_letters.store import DeadLetterReader
    from noetl_events.jetstream.connection import Connection

_CONFLICT: Final = (
    "another event has its id, so a retry would become a dead letter again; send it under another id with --new-id, "
    "or with other content by `dead edit`"
)
_split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The result of resending one letter."""

    sequence: int
    outcome: Literal["retried", "would be retried", "already gone", "failed"]
    subject: str = ""
    reason: str = ""


class Resending:
    """
    Resend dead letters.

    Args:
        connection: connection to NATS; the caller closes it.
        reader: store of the letters.
        new_id: give each event another id; without it a conflict is not sent, because it would be rejected again.
        recipient: consumer to send the letters to, instead of the one that rejected them; `*` for all.

    """

    def __init__(
        self, connection: Connection, reader: DeadLetterReader, *, new_id: bool = False, recipient: str = ""
    ) -> None:
        self._connection = connection
        self._reader = reader
        self._new_id = new_id
        self._recipient = recipient

    async def retry(self, sequence: int, *, dry: bool = False) -> Outcome:
        """
        Resend the letter with this sequence unchanged; with *dry* only return whether that would be tried.

        Raises:
            NatsUnavailable: the letter cannot be read now; it stays.

        """
        letter = await self._reader.find(sequence)
        if letter is None:
            return Outcome(sequence=sequence, outcome="already gone")
        if letter.kind == "conflict" and not self._new_id:
            return _failed(letter, _CONFLICT)
        if dry:
            return _refusal(letter) or Outcome(sequence=sequence, outcome="would be retried", subject=letter.subject)
        return await self.send(letter, letter.body)

    async def send(self, letter: Letter, body: bytes) -> Outcome:
        """Publish *body* instead of the body of *letter* and remove the letter; if that fails, the letter stays."""
        if refusal := _refusal(letter):
            return refusal
        try:
            body = _with_new_id(letter, body) if self._new_id else _with_id(letter, body)
            # The message is stored before the letter is removed.  A crash in between duplicates it; in the other order
            # it would lose it.
            await self._store(letter, body, await self._recipient_of(letter))
            await self._reader.remove(letter.sequence)
        except (NatsUnavailable, MalformedEvent) as exc:
            return _failed(letter, str(exc))
        return Outcome(sequence=letter.sequence, outcome="retried", subject=letter.subject)

    async def _store(self, letter: Letter, body: bytes, recipient: str) -> None:
        usual = letter.stream or EVENTS_STREAM
        try:
            await store(self._connection, letter.subject, body, _headers(letter, body, recipient), usual=usual)
        except MessageTooLarge:
            headers = {name: value for name, value in _headers(letter, body, "").items() if name != FIRST}
            await store(self._connection, letter.subject, body, headers, usual=usual)

    async def _recipient_of(self, letter: Letter) -> str:
        """
        Return the consumer that *letter* is for; empty for all, also if that consumer is gone.

        Raises:
            NatsUnavailable: the requested consumer does not exist, or NATS is unavailable.

        """
        name = self._recipient or letter.consumer
        if name in ("", "*"):
            return ""
        try:
            await show_consumer(self._connection, ConsumerDeclaration(name=name, stream=letter.stream))
        except ConsumerMissing:
            if self._recipient:
                raise
            return ""
        return name


def _refusal(letter: Letter) -> Outcome | None:
    reason = ""
    if not letter.subject:
        reason = "the letter does not name its subject; print its body with `dead show --raw`"
    elif letter.subject.startswith("$"):
        # Events never have such a subject, and a forged letter could send commands to the server.
        reason = "its subject is reserved for the server"
    return _failed(letter, reason) if reason else None


def _failed(letter: Letter, reason: str) -> Outcome:
    return Outcome(sequence=letter.sequence, outcome="failed", subject=letter.subject, reason=reason)


def _headers(letter: Letter, body: bytes, recipient: str) -> dict[str, str]:
    # Nats- headers (expected sequence, time to live) were for the first publish only, so they are dropped.
    restored = {name: value for name, value in letter.headers.items() if not name.lower().startswith("nats-")}
    name = f"retry:{letter.place}:{blake2b(body, digest_size=8).hexdigest()}:{recipient}"
    said = {"Nats-Msg-Id": name, FOR: recipient, FIRST: letter.first_place if letter.stream else ""}
    return {name: value for name, value in (restored | said).items() if value}


def _with_new_id(letter: Letter, body: bytes) -> bytes:
    """
    Return *body* with another event id.

    Raises:
        MalformedEvent: the body is no event, or the letter names no stream position.

    """
    event_id = decode(body).event_id
    new_id = letter.new_id((letter.derived_id or 0) if event_id is None else event_id)
    if new_id is None:
        raise MalformedEvent("the letter names no stream position; give the event another id with `dead edit`")
    return msgspec.json.encode(_split(body) | {"event_id": new_id})


def _with_id(letter: Letter, body: bytes) -> bytes:
    try:
        event = decode(body)
    except MalformedEvent:
        return body
    if event.event_id is not None or letter.derived_id is None:
        return body
    return msgspec.json.encode(_split(body) | {"event_id": letter.derived_id})
