"""
The stream whose acknowledgements count.

A stream of another domain answers a publish that reaches it, and so does any subscriber of the subject.  An answer
counts if it names the expected stream and its domain.  Every other one is foreign: it is passed over, and the wait for
the right one goes on.  What is expected is known, in this order, from

    the settings                     the name of the stream, and the domain of its JetStream
    the server we are connected to   its own domain; the default name where none was given
    the API of JetStream             asked when a stream answers that is neither: which one takes the subject?
    the first PubAck                 where nothing of that says anything, and the account may not ask

A name from the settings stays.  What was learned is learned anew once the API names another stream (one renamed, or
made anew under another name), and after a reconnection to another cluster or domain.

This tells mistakes apart.  It is no authentication: a subscriber that copies the name of the stream is believed.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import structlog
from nats.errors import Error as NatsError

from noetl_events.jetstream.api import require_jetstream, unavailable
from noetl_events.jetstream.declarations import EVENTS_STREAM
from noetl_events.jetstream.errors import (
    JetStreamOff,
    JetStreamSilent,
    NatsUnavailable,
    PermissionDenied,
    Refused,
    StreamMissing,
)
from noetl_events.jetstream.publish.replies import ReplyError, ServerStatus
from noetl_events.jetstream.streams import explained, untaken

if TYPE_CHECKING:
    from collections.abc import Callable

    from noetl_events.jetstream.client import Home
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.publish.replies import Reply

_TIMEOUT: Final = 2.0
# nats-py tells of a denial on the side only, and waits for an answer all the same.
_ANSWERS_LOOK_ROUND: Final = 0.05
_STREAM_NOT_FOUND: Final = 10059
# Of a newer server, with what this one does not know; a stream without a leader is offline too, under another code.
_UNSUPPORTED: Final = 10194


class Taker(msgspec.Struct, frozen=True):
    """
    A stream that takes a subject.

    Args:
        name: of the stream.
        domain: that it is in, "" where the server has none; None where the account may not ask.
        no_ack: whether it is set to store without acknowledging.

    """

    name: str
    domain: str | None = None
    no_ack: bool = False


class _Config(msgspec.Struct, frozen=True):
    no_ack: bool = False


class _Answer(msgspec.Struct, frozen=True):
    streams: list[str] | None = None
    config: _Config = _Config()
    domain: str = ""
    error: ReplyError | None = None


_answer = msgspec.json.Decoder(_Answer)


async def find_taker(connection: Connection, subject: str) -> Taker | None:
    """
    Return the stream that takes *subject*, or None if there is none; the leader of JetStream itself says so.

    Raises:
        PermissionDenied: the account may not ask.
        StreamRefused: the server has the stream, and will not serve it.
        JetStreamOff: it is switched off; `JetStreamSilent` if no API answers.
        NatsUnavailable: nothing is known: the server did not answer, as during an election, or said no.

    """
    names = await streams_of(connection, subject)
    if not names:
        return None
    name = names[0]
    try:
        info = await _ask(connection, f"STREAM.INFO.{name}", b"")
    except (PermissionDenied, JetStreamSilent):
        return Taker(name)
    if info.error is None:
        return Taker(name, info.domain, info.config.no_ack)
    if info.error.err_code == _STREAM_NOT_FOUND:
        # Deleted in the meantime.
        return None
    if info.error.err_code == _UNSUPPORTED:
        raise explained(name, info.error)
    raise NatsUnavailable(f"{connection.api(f'STREAM.INFO.{name}')}: {info.error.description}")


async def streams_of(connection: Connection, subject: str) -> list[str]:
    """Return the names of the streams that take *subject*; raises as `find_taker` does."""
    answer = await _ask(connection, "STREAM.NAMES", json.dumps({"subject": subject}).encode())
    if answer.error is not None:
        raise NatsUnavailable(f"{connection.api('STREAM.NAMES')}: {answer.error.description}")
    return answer.streams or []


async def _ask(connection: Connection, request: str, body: bytes) -> _Answer:
    subject = connection.api(request)
    client = await connection.client()
    with connection.tolerating(subject):
        asked = asyncio.ensure_future(client.request(subject, body, timeout=_TIMEOUT))
        try:
            while not asked.done():
                await asyncio.wait([asked], timeout=_ANSWERS_LOOK_ROUND)
                if denial := connection.denial(subject):
                    raise PermissionDenied(denial)
            answer = _answer.decode((await asked).data)
        except (NatsError, OSError) as exc:
            raise unavailable(connection, subject, exc) from exc
        except ValueError as exc:
            raise NatsUnavailable(f"{subject}: unreadable answer: {exc}") from exc
        finally:
            asked.cancel()
    require_jetstream(answer.error)
    return answer


_LOOK_ROUND: Final = 5.0
_UNANSWERED_ROUND: Final = 1.0
_SELDOM: Final = 60.0

log = structlog.get_logger()


class Trouble(NamedTuple):
    """
    A state of the streams that does not pass by itself.

    Args:
        found_at: of `time.monotonic`.
        words: that say what it is and what to do.
        error: that a call fails with; `NatsUnavailable` where a stream takes the subject that must not be sent to.

    """

    found_at: float
    words: str
    error: type[NatsUnavailable]

    @property
    def is_barring(self) -> bool:
        """Whether nothing may be sent while it lasts."""
        return self.error is NatsUnavailable


class ExpectedStream:
    """
    The stream that a publisher publishes to.

    Args:
        connection: to NATS; it stays open.
        name: of the stream; empty where it has to be learned.
        usual: name that is believed where none was given.
        on_change: called when another stream is expected than before.

    """

    def __init__(
        self,
        connection: Connection,
        name: str = "",
        *,
        usual: str = EVENTS_STREAM,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.trouble: Trouble | None = None
        """What was found when it was looked up last, and has not answered since."""

        self._connection = connection
        self._declared = name
        self._usual = usual
        self._on_change = on_change
        self._home: Home | None = None
        self._known: tuple[str, str] | None = None
        self._is_guess = True
        self._look_at = 0.0
        self._looked_at = 0.0
        self._is_denied = False
        self._silence = ""
        self._foreign: Reply | None = None

    def __str__(self) -> str:
        """Name it as an error does."""
        name, domain = self._known or (self._declared, "")
        return _in_words(name, domain) if name else "the stream of this subject"

    @property
    def may_look(self) -> bool:
        """Whether it is time to ask once more."""
        return time.monotonic() >= self._look_at

    def counts(self, reply: Reply) -> bool:
        """Return whether *reply* is an answer of the stream, or of the server itself."""
        if isinstance(reply, ServerStatus):
            return True
        if self._known is None:
            return False
        name, domain = self._known
        # Servers name no domain when they answer with an error.
        if reply.stream != name or (reply.domain != domain and reply.error is None):
            return False
        if not self.is_ambiguous(reply):
            self._is_guess = False
            self.trouble = self._foreign = None
        return True

    def is_ambiguous(self, reply: Reply) -> bool:
        """Return whether *reply*, which counts, may be an error of a stream of the same name in another domain."""
        has_domain = self._known is not None and bool(self._known[1])
        return reply.error is not None and has_domain and not isinstance(reply, ServerStatus)

    def disown(self, reply: Reply) -> str:
        """Return in words whose answer *reply* is, which does not count."""
        theirs = _in_words(reply.stream, reply.domain) if reply.stream else "a subscriber that is no stream"
        return f"answered by {theirs}, which is not {self}"

    def meet(self, home: Home) -> None:
        """Note where the client is connected now."""
        if home == self._home and self._known is not None:
            return
        if self._known is None or self._home is None or _is_elsewhere(home, self._home):
            self._expect(self._guess(home), is_guess=True)
            self._look_at = 0.0
        self._home = home

    def miss(self, since: float) -> None:
        """Note that the stream is silent *since* then: it may be that another takes the subject now."""
        if not self._is_denied:
            soon = 0.0 if self._looked_at < since else self._looked_at + _LOOK_ROUND
            self._look_at = min(self._look_at, soon)

    async def look_up(self, subject: str, reply: Reply | None = None) -> None:
        """Find out which stream takes *subject*, as `ReplyInbox.look_up` has it."""
        self._is_denied, self._silence, self._looked_at = False, "", time.monotonic()
        try:
            taker = await find_taker(self._connection, subject)
        except (PermissionDenied, JetStreamSilent) as exc:
            # An account that imports no more than the subject has no API either, and elections to wait for.
            self._silence = str(exc) if isinstance(exc, JetStreamSilent) else ""
            self._look_at = time.monotonic() + (_LOOK_ROUND if self._silence else _SELDOM)
            self._is_denied = True
            self.trouble = None
            self._learn_first(reply)
        except (JetStreamOff, Refused) as exc:
            self._look_at = time.monotonic() + _LOOK_ROUND
            self.trouble = Trouble(time.monotonic(), str(exc), Refused if isinstance(exc, Refused) else JetStreamOff)
        except NatsUnavailable:
            self._look_at = time.monotonic() + _UNANSWERED_ROUND
        else:
            before = self._known
            self._learn(taker, reply)
            self.trouble = self._trouble(subject, taker)
            self._look_at = time.monotonic() + (_LOOK_ROUND if self._known != before or self.trouble else _SELDOM)

    def explain_silence(self, subject: str, seconds: float, *, is_untaken: bool) -> str:
        """Return in words why the stream has not answered for so many *seconds*; *is_untaken*: as the server says."""
        if self.trouble is not None:
            why = self.trouble.words
        elif is_untaken and self._silence:
            why = self._silence
        elif is_untaken:
            why = f"no leader for {subject} for {seconds:.1f} s; an election may be under way"
        else:
            why = f"no answer for {seconds:.1f} s"
        if self.trouble is None and (self._is_denied or not is_untaken):
            why += f"; is there a stream that takes {subject}?"
        return f"{why}; {self.disown(self._foreign)}" if self._foreign else why

    def pass_over(self, reply: Reply) -> None:
        """Note *reply*, which does not count."""
        self._foreign = reply

    def _trouble(self, subject: str, taker: Taker | None) -> Trouble | None:
        now = time.monotonic()
        if taker is None:
            return Trouble(now, untaken(subject), StreamMissing)
        if self._declared not in {"", taker.name}:
            words = f"{subject} is taken by stream {taker.name}, not by {self}; name that one, or change its subjects"
            return Trouble(now, words, NatsUnavailable)
        if taker.no_ack:
            words = f"stream {taker.name} stores and does not acknowledge (no_ack): change it with `nats stream edit`"
            return Trouble(now, words, NatsUnavailable)
        return None

    def _guess(self, home: Home) -> tuple[str, str] | None:
        options = self._connection.options
        domain = options.domain if options.domain or options.api_prefix else home.domain
        return None if domain is None else (self._declared or self._usual, domain)

    def _learn(self, taker: Taker | None, reply: Reply | None) -> None:
        if taker is None or self._declared not in {"", taker.name}:
            return
        if taker.domain is not None:
            self._expect((taker.name, taker.domain))
        elif self._known is not None:
            # Its domain may not be asked for, and stays what it was taken for.
            self._expect((taker.name, self._known[1]), is_guess=self._is_guess)
        elif reply is not None and taker.name == reply.stream:
            self._learn_first(reply)

    def _learn_first(self, reply: Reply | None) -> None:
        if reply is None or reply.error is not None or self._declared not in {"", reply.stream}:
            return
        if self._is_guess and (self._known is None or reply.domain == self._known[1]):
            self._expect((reply.stream, reply.domain))

    def _expect(self, known: tuple[str, str] | None, *, is_guess: bool = False) -> None:
        if known != self._known:
            if not self._is_guess:
                log.warning("publisher.stream_changed", before=str(self), now=known)
            self._known = known
            self._on_change()
        self._is_guess = is_guess


def _in_words(name: str, domain: str) -> str:
    return f"stream {name}{f' of domain {domain}' if domain else ''}"


def _is_elsewhere(home: Home, before: Home) -> bool:
    # A server of the same cluster may have no JetStream, and then names no domain.
    has_domains = home.domain is not None and before.domain is not None
    return home.cluster != before.cluster or (has_domains and home.domain != before.domain)
