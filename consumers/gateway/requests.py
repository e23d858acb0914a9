"""Request bodies: read with limits of size, number and time, and split into events."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Raw, structs
from starlette.requests import ClientDisconnect

from consumers.gateway.errors import ApiError, EventError
from noetl_events.envelope import MalformedEvent, decode
from noetl_events.json_values import MAX_INT64, MIN_INT64, explain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from starlette.requests import Request

    from noetl_events.envelope import ExecutorEvent

MAX_BODY: Final = 2 * 1024 * 1024
_BUSY: Final = 1


class RequestLimiter:
    """
    Limits for the requests with events that are not stored yet.

    Args:
        max_requests: largest number of requests; further ones are refused with 429.
        max_bytes: largest total size of their bodies, with the same refusal.
        body_deadline: timeout in seconds for a body to arrive.

    """

    def __init__(
        self, *, max_requests: int = 1_000, max_bytes: int = 64 * 1024 * 1024, body_deadline: float = 10.0
    ) -> None:
        self.requests = 0
        """Number of requests in flight."""
        self.bytes = 0
        """Total size of their bodies, as far as they have arrived."""

        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._body_deadline = body_deadline

    @contextmanager
    def slot(self) -> Iterator[Slot]:
        """
        Hold a slot for one request.

        Raises:
            Refused: no slot is free.

        """
        if self.requests >= self._max_requests:
            raise ApiError(429, "busy", f"{self.requests} requests wait to be stored", retry_after=_BUSY)
        self.requests += 1
        slot = Slot(self)
        try:
            yield slot
        finally:
            self.requests -= 1
            self.bytes -= slot.size

    def reserve(self, size: int) -> None:
        """
        Reserve *size* bytes.

        Raises:
            Refused: the limit of bytes is reached.

        """
        if self.bytes + size > self._max_bytes:
            raise ApiError(429, "busy", f"{self.bytes:,} bytes wait to be stored", retry_after=_BUSY)
        self.bytes += size

    async def read(self, request: Request, slot: Slot) -> bytes:
        """
        Return the body of *request*.

        Raises:
            Refused: the body is too large, too slow or cut short, or the limit of bytes is reached.

        """
        # The server has checked that it is a number; a chunked body has no such header.
        if int(request.headers.get("content-length", "0")) > MAX_BODY:
            raise _too_large()
        try:
            async with asyncio.timeout(self._body_deadline):
                return b"".join([chunk async for chunk in slot.chunks(request)])
        except TimeoutError:
            raise ApiError(408, "slow", f"the body took longer than {self._body_deadline:g} s") from None
        except ClientDisconnect:
            raise ApiError(400, "cut", "the body ended early") from None


class Slot:
    """The slot of one request in *limiter*; its bytes are released with it."""

    def __init__(self, limiter: RequestLimiter) -> None:
        self.size = 0
        self._limiter = limiter

    async def chunks(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the chunks of the body, within the limits."""
        async for chunk in request.stream():
            if self.size + len(chunk) > MAX_BODY:
                raise _too_large()
            self._limiter.reserve(len(chunk))
            self.size += len(chunk)
            yield chunk


def _too_large() -> ApiError:
    return ApiError(413, "too_large", f"a body may have {MAX_BODY:,} bytes")


# Digits of the longest 64-bit number; a longer text is refused first, because Python reports it in another way.
_LONGEST: Final = len(str(MIN_INT64))


def read_number(name: str, text: str, least: int) -> int:
    """
    Return the whole number in *text*.

    Raises:
        Refused: the text is no whole number, below *least*, or beyond 64 bits.

    """
    if text.lstrip("-").isdecimal() and text.isascii() and len(text) <= _LONGEST and least <= int(text) <= MAX_INT64:
        return int(text)
    reason = f"{name}: {text[:80]!r} is no whole number from {least} up"
    raise ApiError(422, "query", reason, errors=(EventError(field=name, reason=reason),))


def read_limit(request: Request, default: int, maximum: int) -> int:
    """Return the `limit` of *request*; raises `ApiError`."""
    limit = read_number("limit", request.query_params.get("limit", str(default)), 1)
    if limit > maximum:
        reason = f"limit: {limit} is more than {maximum}"
        raise ApiError(422, "query", reason, errors=(EventError(field="limit", reason=reason),))
    return limit


MAX_EVENTS: Final = 256
_MAX_FAULTS: Final = 20


class _Batch(msgspec.Struct, frozen=True, kw_only=True):
    events: list[Raw]
    execution_id: Raw = Raw()
    worker_id: Raw = Raw()


_read_batch = msgspec.json.Decoder(_Batch).decode
_split = msgspec.json.Decoder(dict[str, Raw]).decode
_join = msgspec.json.Encoder().encode


def read_one(body: bytes, new_id: Callable[[], int]) -> ExecutorEvent:
    """
    Return the event in *body*, with an id.

    Raises:
        Refused: the body is no valid event.

    """
    try:
        return _with_id(decode(body), new_id)
    except MalformedEvent as exc:
        raise malformed((_fault(exc, None),)) from None


def read_many(body: bytes, new_id: Callable[[], int]) -> list[ExecutorEvent]:
    """
    Return the events in *body*, each with an id; the fields of the batch are defaults of its events.

    Raises:
        Refused: an event is invalid, or there are too many or none.

    """
    batch = _read(body)
    said = {"execution_id": batch.execution_id, "worker_id": batch.worker_id}
    defaults = {name: raw for name, raw in said.items() if bytes(raw) not in (b"", b"null")}
    events: list[ExecutorEvent] = []
    faults: list[EventError] = []
    for index, raw in enumerate(batch.events):
        try:
            events.append(_with_id(decode(_completed(raw, defaults)), new_id))
        except MalformedEvent as exc:
            faults.append(_fault(exc, index))
    if faults:
        raise malformed(tuple(faults))
    return events


def malformed(faults: tuple[EventError, ...]) -> ApiError:
    """Return the refusal of malformed events."""
    return _refused(422, "malformed", faults)


def conflicting(faults: tuple[EventError, ...]) -> ApiError:
    """Return the refusal of events with keys of different events; the rest of the request is stored."""
    return _refused(409, "conflict", faults)


def _refused(status: int, code: str, faults: tuple[EventError, ...]) -> ApiError:
    first = faults[0]
    place = "" if first.index is None else f"events[{first.index}]: "
    return ApiError(status, code, f"{place}{first.reason}", errors=faults[:_MAX_FAULTS])


def _read(body: bytes) -> _Batch:
    try:
        batch = _read_batch(body)
    except (ValueError, RecursionError, OverflowError) as exc:
        field = "events" if isinstance(exc, msgspec.ValidationError) and "events" in str(exc) else "body"
        raise malformed((EventError(field=field, reason=f"{field}: {explain(exc)}"),)) from None
    if not batch.events:
        raise malformed((EventError(field="events", reason="events: none; send at least one"),))
    if len(batch.events) > MAX_EVENTS:
        raise ApiError(413, "too_many", f"events: {len(batch.events)}; a batch may have {MAX_EVENTS}")
    return batch


def _completed(raw: Raw, defaults: dict[str, Raw]) -> bytes:
    try:
        said = _split(raw) if defaults else {}
    except (ValueError, RecursionError, OverflowError):
        # The decoder reports the fault with a better text.
        return bytes(raw)
    missing = {name: value for name, value in defaults.items() if name not in said}
    return _join({**said, **missing}) if missing else bytes(raw)


def _with_id(event: ExecutorEvent, new_id: Callable[[], int]) -> ExecutorEvent:
    return event if event.event_id is not None else structs.replace(event, event_id=new_id())


def _fault(exc: MalformedEvent, index: int | None) -> EventError:
    return EventError(index=index, field=str(exc).partition(":")[0], reason=str(exc))
