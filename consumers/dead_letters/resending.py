"""
Sending dead letters back to where they came from: publish, wait until that is stored, and only then remove the letter.

A crash in between leaves the letter, and sending it again stores nothing twice:

- For as long as the stream remembers ids, by `Nats-Msg-Id`.  It cannot be the original one: the stream may still know
  that, would answer "duplicate", and deliver nothing.  It is `retry:` with the place of the original message, so every
  letter about that message shares it, and with a digest of the body, so that an edited body is another message.
- After that by `event_id`: a sink takes an event twice and keeps it once.  An event that came without one is given the
  id that its first place in the stream derives; without that, its new place would derive another, and a sink that has
  the event already would store it again.  A body that is no event is sent as it is.

A message that is refused again is buried again, as a new letter about a new place.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Literal

import msgspec

from noetl_events.envelope import MalformedEvent, decode
from noetl_events.jetstream.declarations import EVENTS_STREAM
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.store import store

if TYPE_CHECKING:
    from consumers.dead_letters.graveyard import Graveyard
    from consumers.dead_letters.letter import Letter
    from noetl_events.jetstream.connection import Connection

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

    """

    def __init__(self, connection: Connection, graveyard: Graveyard) -> None:
        self._connection = connection
        self._graveyard = graveyard

    async def retry(self, sequence: int, *, dry: bool = False) -> Outcome:
        """
        Send the letter with this number back as it is; with *dry* only say whether that would be tried.

        Raises:
            NatsUnavailable: the letter cannot be read now; it stays.

        """
        letter = await self._graveyard.find(sequence)
        if letter is None:
            return Outcome(sequence=sequence, outcome="already gone")
        if dry:
            return _refusal(letter) or Outcome(sequence=sequence, outcome="would be retried", subject=letter.subject)
        return await self.send(letter, letter.body)

    async def send(self, letter: Letter, body: bytes) -> Outcome:
        """Publish *body* in place of *letter*'s own and remove the letter; when that fails, the letter stays."""
        if refusal := _refusal(letter):
            return refusal
        body = _with_id(letter, body)
        try:
            # Stored before it is removed: a crash in between leaves it twice, the other order would leave nothing.
            await store(
                self._connection, letter.subject, body, _headers(letter, body), usual=letter.stream or EVENTS_STREAM
            )
            await self._graveyard.remove(letter.sequence)
        except NatsUnavailable as exc:
            return Outcome(sequence=letter.sequence, outcome="failed", subject=letter.subject, reason=str(exc))
        return Outcome(sequence=letter.sequence, outcome="retried", subject=letter.subject)


def _refusal(letter: Letter) -> Outcome | None:
    reason = ""
    if not letter.subject:
        reason = "it does not say which subject it came from; `show --raw` has its body"
    elif letter.subject.startswith("$"):
        # No event comes from there; a forged letter could have us command the server.
        reason = "its subject belongs to the server"
    return (
        Outcome(sequence=letter.sequence, outcome="failed", subject=letter.subject, reason=reason) if reason else None
    )


def _headers(letter: Letter, body: bytes) -> dict[str, str]:
    # What begins with Nats- was said to the server about the first publish: an expected sequence, a time to live.
    restored = {name: value for name, value in letter.headers.items() if not name.lower().startswith("nats-")}
    return restored | {"Nats-Msg-Id": f"retry:{letter.place}:{blake2b(body, digest_size=8).hexdigest()}"}


def _with_id(letter: Letter, body: bytes) -> bytes:
    try:
        event = decode(body)
    except MalformedEvent:
        return body
    if event.event_id is not None or letter.derived_id is None:
        return body
    return msgspec.json.encode(_split(body) | {"event_id": letter.derived_id})
