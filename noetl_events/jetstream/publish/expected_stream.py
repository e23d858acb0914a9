"""
The stream that has to acknowledge messages.

A stream of another domain answers a publish that reaches it, and any subscriber of the subject may answer too.  An
answer counts if it names the expected stream and its domain.  Any other answer is foreign: it is ignored, and the wait
for the right answer continues.  The expected name and domain come from the first of these that has them:

    settings                  the name of the stream, and the domain of its JetStream
    connected server          its own domain; the default name of the stream
    JetStream API             asked which stream takes the subject, when another stream answers
    first PubAck              if all of the above say nothing, and the account may not ask the API

A name from the settings is fixed.  A learned name is replaced when the API names another stream (after a rename, or a
deletion and creation under another name), and after a reconnection to another cluster or domain.

The check detects mistakes.  A subscriber that copies the name of the stream is believed, so it is no authentication.
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
# nats-py reports a denial through its error callback only and still waits for an answer, so it is checked this often.
_DENIAL_INTERVAL: Final = 0.05
_STREAM_NOT_FOUND: Final = 10059
# The stream needs a newer server than this one; a stream without a leader is offline too, with another code.
_UNSUPPORTED: Final = 10194


class Taker(msgspec.Struct, frozen=True):
    """
    A stream that takes a subject.

    Args:
        name: name of the stream.
        domain: JetStream domain of the stream, "" if the server has none; None if the account may not ask.
        no_ack: True if the stream stores without acknowledging.

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
    Return the stream that takes *subject*, or None if there is none, as the leader of JetStream knows it.

    Raises:
        PermissionDenied: the account may not ask.
        StreamRefused: the server has the stream, and refuses to serve it.
        JetStreamOff: JetStream is switched off; `JetStreamSilent` if no API answers.
        NatsUnavailable: the result is unknown: the server did not answer, as during an election, or refused.

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
        # The stream was deleted between the two requests.
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
                await asyncio.wait([asked], timeout=_DENIAL_INTERVAL)
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


_LOOKUP_INTERVAL: Final = 5.0
_UNANSWERED_INTERVAL: Final = 1.0
_IDLE_INTERVAL: Final = 60.0

log = structlog.get_logger()


class StreamProblem(NamedTuple):
    """
    A state of the streams that does not end by itself.

    Args:
        found_at: time of the discovery, of `time.monotonic`.
        text: text with the state and the remedy.
        error: error for failed calls; `NatsUnavailable` if the wrong stream takes the subject.

    """

    found_at: float
    text: str
    error: type[NatsUnavailable]

    @property
    def blocks_publishing(self) -> bool:
        """True if no message may be sent while the state lasts."""
        return self.error is NatsUnavailable


class ExpectedStream:
    """
    The stream that a publisher publishes to.

    Args:
        connection: connection to NATS; it is not closed here.
        name: name of the stream; empty to learn it.
        usual: name to accept if none was given.
        on_change: callback for a change of the expected stream.

    """

    def __init__(
        self,
        connection: Connection,
        name: str = "",
        *,
        usual: str = EVENTS_STREAM,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.problem: StreamProblem | None = None
        """Result of the last look-up; None if it found no problem, or the stream has answered since."""

        self._connection = connection
        self._declared = name
        self._usual = usual
        self._on_change = on_change
        self._home: Home | None = None
        self._known: tuple[str, str] | None = None
        self._is_guess = True
        self._next_lookup = 0.0
        self._last_lookup = 0.0
        self._is_denied = False
        self._silence = ""
        self._foreign: Reply | None = None

    def __str__(self) -> str:
        """Return the stream's name as error texts use it."""
        name, domain = self._known or (self._declared, "")
        return _in_words(name, domain) if name else "the stream of this subject"

    @property
    def is_lookup_due(self) -> bool:
        """True if the next look-up is due."""
        return time.monotonic() >= self._next_lookup

    def counts(self, reply: Reply) -> bool:
        """Return True if *reply* is an answer of the stream, or of the server itself."""
        if isinstance(reply, ServerStatus):
            return True
        if self._known is None:
            return False
        name, domain = self._known
        # Servers omit the domain when they answer with an error.
        if reply.stream != name or (reply.domain != domain and reply.error is None):
            return False
        if not self.is_ambiguous(reply):
            self._is_guess = False
            self.problem = self._foreign = None
        return True

    def is_ambiguous(self, reply: Reply) -> bool:
        """Return True if *reply*, which counts, may be an error of a stream of the same name in another domain."""
        has_domain = self._known is not None and bool(self._known[1])
        return reply.error is not None and has_domain and not isinstance(reply, ServerStatus)

    def describe_foreign(self, reply: Reply) -> str:
        """Return a text that names the sender of *reply*, which does not count."""
        theirs = _in_words(reply.stream, reply.domain) if reply.stream else "a subscriber that is not a stream"
        return f"answered by {theirs}, which is not {self}"

    def record_server(self, home: Home) -> None:
        """Record the server that the client is connected to."""
        if home == self._home and self._known is not None:
            return
        if self._known is None or self._home is None or _is_elsewhere(home, self._home):
            self._expect(self._guess(home), is_guess=True)
            self._next_lookup = 0.0
        self._home = home

    def record_silence(self, since: float) -> None:
        """Record that the stream is silent *since* that time, as another stream may take the subject now."""
        if not self._is_denied:
            soon = 0.0 if self._last_lookup < since else self._last_lookup + _LOOKUP_INTERVAL
            self._next_lookup = min(self._next_lookup, soon)

    async def look_up(self, subject: str, reply: Reply | None = None) -> None:
        """Look up which stream takes *subject*, as described in `ReplyInbox.look_up`."""
        self._is_denied, self._silence, self._last_lookup = False, "", time.monotonic()
        try:
            taker = await find_taker(self._connection, subject)
        except (PermissionDenied, JetStreamSilent) as exc:
            # An account that imports only the subject has no API either, and still has elections to wait for.
            self._silence = str(exc) if isinstance(exc, JetStreamSilent) else ""
            self._next_lookup = time.monotonic() + (_LOOKUP_INTERVAL if self._silence else _IDLE_INTERVAL)
            self._is_denied = True
            self.problem = None
            self._learn_first(reply)
        except (JetStreamOff, Refused) as exc:
            self._next_lookup = time.monotonic() + _LOOKUP_INTERVAL
            kind = Refused if isinstance(exc, Refused) else JetStreamOff
            self.problem = StreamProblem(time.monotonic(), str(exc), kind)
        except NatsUnavailable:
            self._next_lookup = time.monotonic() + _UNANSWERED_INTERVAL
        else:
            before = self._known
            self._learn(taker, reply)
            self.problem = self._find_problem(subject, taker)
            interval = _LOOKUP_INTERVAL if self._known != before or self.problem else _IDLE_INTERVAL
            self._next_lookup = time.monotonic() + interval

    def explain_silence(self, subject: str, seconds: float, *, is_untaken: bool) -> str:
        """Return a reason why the stream is silent for *seconds*; *is_untaken*: the server reports no responders."""
        if self.problem is not None:
            why = self.problem.text
        elif is_untaken and self._silence:
            why = self._silence
        elif is_untaken:
            why = f"no leader for {subject} for {seconds:.1f} s; an election may be under way"
        else:
            why = f"no answer for {seconds:.1f} s"
        if self.problem is None and (self._is_denied or not is_untaken):
            why += f"; is there a stream that takes {subject}?"
        return f"{why}; {self.describe_foreign(self._foreign)}" if self._foreign else why

    def record_foreign(self, reply: Reply) -> None:
        """Record *reply*, which does not count, for error texts."""
        self._foreign = reply

    def _find_problem(self, subject: str, taker: Taker | None) -> StreamProblem | None:
        now = time.monotonic()
        if taker is None:
            return StreamProblem(now, untaken(subject), StreamMissing)
        if self._declared not in {"", taker.name}:
            text = (
                f"{subject} is taken by stream {taker.name}, not by {self}; name {taker.name}, or change its subjects"
            )
            return StreamProblem(now, text, NatsUnavailable)
        if taker.no_ack:
            text = f"stream {taker.name} stores and does not acknowledge (no_ack): change it with `nats stream edit`"
            return StreamProblem(now, text, NatsUnavailable)
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
            # The account may not read the domain, so the assumed one is kept.
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
    # A server of the same cluster may have no JetStream, and then reports no domain.
    has_domains = home.domain is not None and before.domain is not None
    return home.cluster != before.cluster or (has_domains and home.domain != before.domain)
