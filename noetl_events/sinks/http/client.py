"""
Requests to an HTTP endpoint: the events of each, and the meaning of its answer.

| status                    | for one event                    | for a batch                      |
|---------------------------|----------------------------------|----------------------------------|
| 2xx                       | stored                           | stored                           |
| 409, `duplicate` is true  | stored before                    | refused: post each event alone   |
| 409, code `conflict`      | conflict with another event      | refused: post each event alone   |
| 409 without either        | refused for ever, or by option   | refused: post each event alone   |
|                           | stored                           |                                  |
| 401, 403, 407             | unavailable: the credentials     | unavailable                      |
| 404, 405                  | unavailable: the address         | refused: there may be no batches |
| 408, 425, 429, 5xx        | unavailable                      | unavailable                      |
| other 4xx                 | refused for ever                 | refused: post each event alone   |
| 3xx and others            | unavailable: the address         | unavailable                      |

A bare 409 may mean that the server has this very event, has another one with the same id, or forbids the event: NoETL's
own server answers so to a command that another worker has claimed.  So it counts as stored only if the operator of the
sink sets the option for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import blake2b
from http import HTTPStatus
from io import BytesIO
from typing import TYPE_CHECKING, Final, NamedTuple

import aiohttp
import msgspec

from noetl_events.envelope import ExecutorEvent
from noetl_events.sink import SinkUnavailable
from noetl_events.sinks.http.target import open_socket
from noetl_events.trace_context import trace_headers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from noetl_events.sinks.http.target import Target

MAX_EVENTS: Final = 256
MAX_BYTES: Final = 2 * 2**20
"""Most bytes that NoETL accepts in one request.  A longer event is posted alone, and the server decides."""


class Encoded(msgspec.Struct, frozen=True):
    """An event, its wire form, and its indexes in the batch: the same event may occur more than once."""

    event: ExecutorEvent
    body: bytes
    places: list[int]


class Request(msgspec.Struct, frozen=True):
    """Events of one execution, in order: a single one for the endpoint of events, several for that of batches."""

    events: Sequence[Encoded]

    @property
    def is_batch(self) -> bool:
        """True if the request has several events, so its answer is for all of them."""
        return len(self.events) > 1

    def body(self) -> bytes:
        """Return the body of the request."""
        if not self.is_batch:
            return self.events[0].body
        return _head(self.events) + b",".join(event.body for event in self.events) + b"]}"

    def singles(self) -> Iterator[Request]:
        """Yield a request for each event."""
        for event in self.events:
            yield Request([event])


def requests_of(events: Iterable[Encoded]) -> Iterator[Request]:
    """Yield *events* of one execution in as few requests as the limits allow."""
    chosen: list[Encoded] = []
    room = 0
    for event in events:
        # Each event counts with a comma before it; `room` of a new request makes up for the first one, which has none.
        size = len(event.body) + 1
        if chosen and (len(chosen) == MAX_EVENTS or size > room):
            yield Request(chosen)
            chosen = []
        room = (room if chosen else MAX_BYTES - len(_head([event])) - len(b"]}") + len(b",")) - size
        chosen.append(event)
    if chosen:
        yield Request(chosen)


def idempotency_key(body: bytes) -> str:
    """Return a name of this content, the same for each retry."""
    return blake2b(body, digest_size=16).hexdigest()


def _head(events: Sequence[Encoded]) -> bytes:
    first = events[0].event
    head: dict[str, int | str] = {"execution_id": first.execution_id}
    # The server applies the worker's id to every event, so it is sent only if all events have it.
    if first.worker_id is not None and all(event.event.worker_id == first.worker_id for event in events):
        head["worker_id"] = first.worker_id
    return msgspec.json.encode(head)[:-1] + b',"events":['


MAX_BODY: Final = 256 * 1024
_MAX_SHOWN: Final = 300
_WAIT: Final = {408, 425, 429}
# An expired token or a wrong path is no fault of the event, so it must not become a dead letter.
_CREDENTIALS: Final = {401, 403, 407}
_ADDRESS: Final = {404, 405}
_is_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Refusal(NamedTuple):
    """
    The reason why an event will never be accepted.

    Args:
        reason: reason as text.
        is_conflict: True if the server has a different event with the same key.

    """

    reason: str
    is_conflict: bool = False


class _Conflict(msgspec.Struct, frozen=True):
    """The fields that explain a 409."""

    code: str = ""
    duplicate: bool = False


_read_conflict = msgspec.json.Decoder(_Conflict).decode


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """
    The answer of the server.

    Args:
        status: HTTP status.
        body: body, read up to a little more than `MAX_BODY`.
        retry_after: header `Retry-After`.
        location: header `Location`.

    """

    status: int
    body: bytes
    retry_after: str | None = None
    location: str | None = None

    def refusal(self, *, of_batch: bool, is_409_stored: bool = False) -> Refusal | None:
        """
        Return the reason why the posted events are refused, or None if they are stored.

        Args:
            of_batch: True if the request had several events.
            is_409_stored: True if a 409 without an explanation means that the server has the event.

        Raises:
            SinkUnavailable: the answer does not show the outcome.

        """
        status = self.status
        if 200 <= status < 300:  # noqa: PLR2004  (the class of success)
            self._require_sound()
            return None
        if status == HTTPStatus.CONFLICT and not of_batch:
            return self._conflict(is_409_stored=is_409_stored)
        if not 400 <= status < 500 or status in _WAIT | _CREDENTIALS or (status in _ADDRESS and not of_batch):  # noqa: PLR2004  (the class of refusals)
            raise SinkUnavailable(f"http: {self._words()}", read_retry_after(self.retry_after))
        return Refusal(self._words())

    def _conflict(self, *, is_409_stored: bool) -> Refusal | None:
        try:
            said = _read_conflict(self.body[:MAX_BODY])
        except (ValueError, RecursionError):
            said = _Conflict()
        if said.code == "conflict":
            return Refusal(self._words(), is_conflict=True)
        if said.duplicate or is_409_stored:
            return None
        return Refusal(f"{self._words()}; if the server says so of an event that it has already, set on_409=stored")

    def _require_sound(self) -> None:
        """Raise `SinkUnavailable` for a success that a proxy before the server may have made up."""
        if len(self.body) > MAX_BODY:
            raise SinkUnavailable(f"http: {self.status}, but the response is longer than {MAX_BODY} bytes")
        try:
            if self.body:
                _is_object(self.body)
        except (ValueError, RecursionError):
            raise SinkUnavailable(f"http: {self.status}, but not as NoETL answers: {self._shown()}") from None

    def _words(self) -> str:
        if 300 <= self.status < 400:  # noqa: PLR2004  (the class of redirects)
            return (
                f"{self.status}: it redirects to {self.location or 'nowhere'}, which is not followed; correct the URL"
            )
        if self.status in _CREDENTIALS:
            return f"{self.status}: the token is missing or not accepted: {self._shown()}"
        if self.status in _ADDRESS:
            return f"{self.status}: the URL leads to no endpoint for events: {self._shown()}"
        return f"{self.status}: {self._shown()}"

    def _shown(self) -> str:
        return repr(self.body[:_MAX_SHOWN].decode(errors="replace"))


def read_retry_after(value: str | None) -> float | None:
    """Return the seconds in a `Retry-After` header, or None if it is neither a number nor a date."""
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,10}", value.strip(), re.ASCII):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    wait = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(wait, 0.0)


# Shorter than uvicorn's own keep-alive, so no request meets a connection that the server is closing.
_KEEP_ALIVE: Final = 4.0
_HEADERS: Final = {
    "Content-Type": "application/json",
    # Compressed answers could expand to any size, so none is accepted.
    "Accept-Encoding": "identity",
    "User-Agent": "noetl-events",
}


class Client:
    """
    Post requests to *target*, over connections that are opened on demand.

    Args:
        target: endpoint and credentials.
        timeout: seconds for a request and its answer.
        connections: most open connections.

    """

    def __init__(self, target: Target, *, timeout: float, connections: int) -> None:
        self._target = target
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def post(self, request: Request) -> Answer:
        """
        Post *request*, and return the answer.

        Raises:
            SinkUnavailable: there was no answer in time; the outcome is unknown.

        """
        body = request.body()
        url = self._target.batch_url if request.is_batch else self._target.url
        headers = _HEADERS | trace_headers() | self._target.headers() | {"Idempotency-Key": idempotency_key(body)}
        try:
            try:
                return await self._post(url, body, headers)
            except aiohttp.ServerDisconnectedError:
                # The server may have closed the idle connection.  A retry has the same key and ids, so it is safe.
                return await self._post(url, body, headers)
        except TimeoutError as exc:
            raise SinkUnavailable(f"http: no answer within {self._timeout.total} s") from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise SinkUnavailable(f"http: {str(exc) or repr(exc)}") from exc

    async def aclose(self) -> None:
        """Close the connections; safe before the first request, and twice."""
        if self._session is not None:
            await self._session.close()

    async def _post(self, url: str, body: bytes, headers: dict[str, str]) -> Answer:
        session = self._open()
        # aiohttp writes a stream in pieces, so other tasks run in between.
        async with session.post(url, data=BytesIO(body), headers=headers, allow_redirects=False) as response:
            return Answer(
                status=response.status,
                body=await _read(response),
                retry_after=response.headers.get("Retry-After"),
                location=response.headers.get("Location"),
            )

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=self._connections,
                keepalive_timeout=_KEEP_ALIVE,
                ssl=self._target.tls(),
                socket_factory=open_socket,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=self._timeout,
                auto_decompress=False,
                # Cookies are ignored, because requests are independent.
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY:
            break
    return bytes(body)
