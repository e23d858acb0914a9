"""
Sending dead letters back to where they came from: publish, wait until that is stored, and only then remove the letter.

A crash in between leaves the letter, and sending it again stores nothing twice:

- For as long as the stream remembers ids, by `Nats-Msg-Id`.  It cannot be the original one: the stream may still know
  that, would answer "duplicate", and deliver nothing.  It is `retry:` with the place of the original message, a digest
  of the body, so that an edited body is another message, and the consumer it is for.
- After that by `event_id`: a sink takes an event twice and keeps it once.  An event that came without one is given the
  id that its first place in the stream derives; without that, its new place would derive another, and a sink that has
  the event already would store it again.  A body that is no event is sent as it is.

A message that is refused again is buried again, as a new letter about a new place.

A letter sent again is for the consumer that buried it, which `Noetl-For` names: the projectors of others acknowledge
and skip it.  It is for all where that consumer is gone, or where there is no room for the header.  A projector of the
first version does not know the header: beside a newer one it stores an event under a new id too, and once, since all
letters of one message agree on that id.  `Noetl-First` keeps the first place of the message.
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
    from consumers.dead_letters.store import Graveyard
    from noetl_events.jetstream.connection import Connection

_CONFLICT: Final = (
    "another event has its id, so that it would be buried again; --new-id sends it under another id, "
    "`dead edit` with other content"
)
_split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one letter."""

    sequence: int
    outcome: Literal["retried", "would be retried", "already gone", "failed"]
    subject: str = ""
    reason: str = ""


class Resending:
    """
    Send letters back.

    Args:
        connection: to NATS; it stays open.
        graveyard: the letters are in.
        new_id: give each event another id; without it a conflict is not sent, for it would be buried again.
        recipient: the consumer they are for, in place of the one that buried them; `*` for all.

    """

    def __init__(
        self, connection: Connection, graveyard: Graveyard, *, new_id: bool = False, recipient: str = ""
    ) -> None:
        self._connection = connection
        self._graveyard = graveyard
        self._new_id = new_id
        self._recipient = recipient

    async def retry(self, sequence: int, *, dry: bool = False) -> Outcome:
        """
        Send the letter with this number back as it is; with *dry* only say whether that would be tried.

        Raises:
            NatsUnavailable: the letter cannot be read now; it stays.

        """
        letter = await self._graveyard.find(sequence)
        if letter is None:
            return Outcome(sequence=sequence, outcome="already gone")
        if letter.kind == "conflict" and not self._new_id:
            return _failed(letter, _CONFLICT)
        if dry:
            return _refusal(letter) or Outcome(sequence=sequence, outcome="would be retried", subject=letter.subject)
        return await self.send(letter, letter.body)

    async def send(self, letter: Letter, body: bytes) -> Outcome:
        """Publish *body* in place of *letter*'s own and remove the letter; when that fails, the letter stays."""
        if refusal := _refusal(letter):
            return refusal
        try:
            body = _with_new_id(letter, body) if self._new_id else _with_id(letter, body)
            # Stored before it is removed: a crash in between leaves it twice, the other order would leave nothing.
            await self._store(letter, body, await self._recipient_of(letter))
            await self._graveyard.remove(letter.sequence)
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
        Return the consumer that *letter* is for, empty for all: one that is gone would have it skipped by all.

        Raises:
            NatsUnavailable: the one asked for does not exist, or that cannot be asked now.

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
        reason = "it does not say which subject it came from; `show --raw` has its body"
    elif letter.subject.startswith("$"):
        # No event comes from there; a forged letter could have us command the server.
        reason = "its subject belongs to the server"
    return _failed(letter, reason) if reason else None


def _failed(letter: Letter, reason: str) -> Outcome:
    return Outcome(sequence=letter.sequence, outcome="failed", subject=letter.subject, reason=reason)


def _headers(letter: Letter, body: bytes, recipient: str) -> dict[str, str]:
    # What begins with Nats- was said to the server about the first publish: an expected sequence, a time to live.
    restored = {name: value for name, value in letter.headers.items() if not name.lower().startswith("nats-")}
    name = f"retry:{letter.place}:{blake2b(body, digest_size=8).hexdigest()}:{recipient}"
    said = {"Nats-Msg-Id": name, FOR: recipient, FIRST: letter.first_place if letter.stream else ""}
    return {name: value for name, value in (restored | said).items() if value}


def _with_new_id(letter: Letter, body: bytes) -> bytes:
    """
    Return *body* with another id.

    Raises:
        MalformedEvent: it is no event, or the letter does not say where it came from.

    """
    event_id = decode(body).event_id
    new_id = letter.new_id((letter.derived_id or 0) if event_id is None else event_id)
    if new_id is None:
        raise MalformedEvent("it does not say where in a stream it was; `dead edit` gives it another id by hand")
    return msgspec.json.encode(_split(body) | {"event_id": new_id})


def _with_id(letter: Letter, body: bytes) -> bytes:
    try:
        event = decode(body)
    except MalformedEvent:
        return body
    if event.event_id is not None or letter.derived_id is None:
        return body
    return msgspec.json.encode(_split(body) | {"event_id": letter.derived_id})
