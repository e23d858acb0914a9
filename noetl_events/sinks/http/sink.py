"""A sink that posts events to NoETL's API, or to a compatible server."""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING, Self

import structlog

from noetl_events.envelope import encode
from noetl_events.in_flight import InFlight
from noetl_events.json_values import MalformedEvent
from noetl_events.sink import EventsRejected, SinkUnavailable, require_ids
from noetl_events.sinks.http.client import Client, Encoded, Refusal, Request, requests_of
from noetl_events.sinks.http.target import Target, read_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from noetl_events.envelope import ExecutorEvent

log = structlog.get_logger()


class HttpSink:
    """
    Post events to *url*, and several of one execution together to `url/batch`.

    - An event is stored if the server answers with success, or with 409 and `"duplicate": true`.  Any other 409 rejects
      the event, and with the code `conflict` as a conflict: the server may have another event with its id.
    - Events of one execution arrive in the order they were emitted; executions are posted concurrently.
    - The events of a refused batch are posted again one by one, and only those refused alone are rejected.
    - Link-local addresses and the metadata services of clouds are refused, also behind a name: in the URL with
      `ValueError`, behind a name with `SinkUnavailable`.
    - Redirects are not followed.  Redirects, refused tokens and wrong paths count as outages, and reject no event.
    - A retry is sent with the same `Idempotency-Key`.

    Args:
        url: URL such as `https://host/api/events`; `http://` is for this machine.
        token: bearer token.
        token_file: path of a file with the token instead, read for every request.
        tls_ca: path of the authorities for the server's certificate, instead of the system's.
        insecure: True to allow `http://` to other machines.
        timeout: seconds for a request, and for the wait until it is sent.
        concurrency: most concurrent requests.
        on_409: `reject`, or `stored` for a server that answers a bare 409 only for an event that it has.

    Raises:
        ValueError: the URL is not valid, or arguments contradict each other.

    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        token_file: str | None = None,
        tls_ca: str | None = None,
        insecure: bool = False,
        timeout: float = 30.0,
        concurrency: int = 8,
        on_409: str = "reject",
    ) -> None:
        if on_409 not in ("reject", "stored"):
            raise ValueError(f"on_409: {on_409!r} is neither reject nor stored")
        target = Target(url=url, token=token, token_file=token_file, tls_ca=tls_ca, insecure=insecure)
        self._client = Client(target, timeout=timeout, connections=concurrency)
        # All events of an execution use the same slot, and a slot sends one request at a time.  So the order is kept,
        # and the number of requests in flight is bounded.
        self._slots = [asyncio.Lock() for _ in range(concurrency)]
        self._timeout = timeout
        self._is_409_stored = on_409 == "stored"
        self._in_flight = InFlight()
        self._closed = False

    @classmethod
    def from_url(cls, url: str) -> Self:
        """
        Open `https://host/api/events?token_file=/run/secrets/noetl`.

        Options: *token_file*, *tls_ca*, *insecure*, *timeout*, *on_409*.

        Raises:
            ValueError: as for the class, or the URL has an unknown option.

        """
        return cls(**read_url(url))

    async def emit(self, event: ExecutorEvent) -> None:
        """Post *event*."""
        await self.emit_batch([event])

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Post *events*; raises as `EventSink`."""
        if self._closed:
            raise RuntimeError("HttpSink is closed")
        executions, malformed = _by_execution(events)
        with self._in_flight:
            refusals = malformed | await self._send(self._by_slot(executions))
        if refusals:
            raise EventsRejected(
                {place: refusal.reason for place, refusal in refusals.items()},
                conflicts=(place for place, refusal in refusals.items() if refusal.is_conflict),
            )

    async def aclose(self) -> None:
        """Finish accepted calls, and close the connections."""
        self._closed = True
        await self._in_flight.wait_for_none()
        await self._client.aclose()

    def _by_slot(self, executions: dict[int, list[Encoded]]) -> dict[int, list[Request]]:
        slots: dict[int, list[Request]] = {}
        for execution_id, events in executions.items():
            # Many snowflakes end in zero bits, so a hash chooses the slot and not the remainder of the id.
            slot = zlib.crc32(b"%d" % execution_id) % len(self._slots)
            slots.setdefault(slot, []).extend(requests_of(events))
        return slots

    async def _send(self, by_slot: dict[int, list[Request]]) -> dict[int, Refusal]:
        """Send all requests, and return the refusals by index."""
        # Each slot runs to its end even if another fails, so stored events are not sent again.
        sending = (self._send_in_order(self._slots[slot], requests) for slot, requests in by_slot.items())
        refusals: dict[int, Refusal] = {}
        failures: list[BaseException] = []
        for outcome in await asyncio.gather(*sending, return_exceptions=True):
            if isinstance(outcome, BaseException):
                failures.append(outcome)
            else:
                refusals |= outcome
        if failures:
            # A bug is raised before an outage, or it would be retried as one.
            raise min(failures, key=lambda failure: isinstance(failure, SinkUnavailable))
        return refusals

    async def _send_in_order(self, slot: asyncio.Lock, requests: Iterable[Request]) -> dict[int, Refusal]:
        await self._acquire(slot)
        try:
            refusals: dict[int, Refusal] = {}
            for request in requests:
                refusals |= await self._post(request)
            return refusals
        finally:
            slot.release()

    async def _acquire(self, slot: asyncio.Lock) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await slot.acquire()
        except TimeoutError as exc:
            raise SinkUnavailable(f"http: earlier requests have had no answer for {self._timeout} s") from exc

    async def _post(self, request: Request) -> dict[int, Refusal]:
        answer = await self._client.post(request)
        refusal = answer.refusal(of_batch=request.is_batch, is_409_stored=self._is_409_stored)
        if refusal is None:
            return {}
        if not request.is_batch:
            return dict.fromkeys(request.events[0].places, refusal)
        log.warning("http.batch_refused", events=len(request.events), reason=refusal.reason)
        refusals: dict[int, Refusal] = {}
        for single in request.singles():
            refusals |= await self._post(single)
        return refusals


def _by_execution(events: Sequence[ExecutorEvent]) -> tuple[dict[int, list[Encoded]], dict[int, Refusal]]:
    """
    Return each event once with its wire form by execution, and the refusals of malformed events by index.

    Raises:
        ValueError: an event has no id.

    """
    require_ids(events)
    encoded: dict[bytes, Encoded] = {}
    refusals: dict[int, Refusal] = {}
    for place, event in enumerate(events):
        try:
            body = encode(event)
        except MalformedEvent as exc:
            refusals[place] = Refusal(str(exc))
        else:
            encoded.setdefault(body, Encoded(event, body, [])).places.append(place)
    executions: dict[int, list[Encoded]] = {}
    for one in encoded.values():
        executions.setdefault(one.event.execution_id, []).append(one)
    return executions, refusals
