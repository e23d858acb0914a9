"""A sink that posts events to NoETL's API, or to whatever takes what that takes."""

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
    Post events to *url*, several of one execution together to `url/batch`.

    - Stored is what the server has answered with success, or with 409 and `"duplicate": true`.  Any other 409 rejects
      the event, as a conflict where it has the code `conflict`: the server may have another event under its id.
    - Events of one execution arrive in the order they were emitted; executions go side by side.
    - A batch that is refused is posted again one by one, and only what is refused alone is rejected.
    - Link-local addresses and the metadata services of clouds are refused, also where a name leads there: the URL with
      `ValueError`, a name with `SinkUnavailable`.
    - Redirects are not followed.  They, a refused token and a wrong path hold events: none is given up for them.
    - Whatever is sent again is sent with the same `Idempotency-Key`.

    Args:
        url: as `https://host/api/events`; `http://` for this machine.
        token: sent as a bearer token.
        token_file: where to read the token instead, anew for every request.
        tls_ca: certificates to verify the server by, in place of the system's.
        insecure: allow `http://` to other machines.
        timeout: seconds for a request, and for the wait until it is sent.
        concurrency: requests at a time.
        on_409: `reject`, or `stored` for a server that answers a bare 409 only to an event that it has already.

    Raises:
        ValueError: the URL is none to post to, or arguments contradict each other.

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
        # An execution always takes the same lane, and a lane sends one request at a time: that keeps the order, and
        # bounds what is under way.
        self._lanes = [asyncio.Lock() for _ in range(concurrency)]
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
            ValueError: as the class, or the URL has an option there is not.

        """
        return cls(**read_url(url))

    async def emit(self, event: ExecutorEvent) -> None:
        """Post *event*."""
        await self.emit_batch([event])

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Post *events*; see `EventSink` for what is raised."""
        if self._closed:
            raise RuntimeError("HttpSink is closed")
        executions, malformed = _by_execution(events)
        with self._in_flight:
            refusals = malformed | await self._send(self._by_lane(executions))
        if refusals:
            raise EventsRejected(
                {place: refusal.reason for place, refusal in refusals.items()},
                conflicts=(place for place, refusal in refusals.items() if refusal.is_conflict),
            )

    async def aclose(self) -> None:
        """Finish what was accepted, and close the connections."""
        self._closed = True
        await self._in_flight.wait_for_none()
        await self._client.aclose()

    def _by_lane(self, executions: dict[int, list[Encoded]]) -> dict[int, list[Request]]:
        lanes: dict[int, list[Request]] = {}
        for execution_id, events in executions.items():
            # Not the remainder of the id itself: the low bits of many a snowflake are zero.
            lane = zlib.crc32(b"%d" % execution_id) % len(self._lanes)
            lanes.setdefault(lane, []).extend(requests_of(events))
        return lanes

    async def _send(self, lanes: dict[int, list[Request]]) -> dict[int, Refusal]:
        """Send all, and return what is refused, by its place."""
        # Every lane goes on to its end, also beside one that fails: what it stores need not be sent again.
        sending = (self._send_lane(self._lanes[lane], requests) for lane, requests in lanes.items())
        refusals: dict[int, Refusal] = {}
        failures: list[BaseException] = []
        for outcome in await asyncio.gather(*sending, return_exceptions=True):
            if isinstance(outcome, BaseException):
                failures.append(outcome)
            else:
                refusals |= outcome
        if failures:
            # A bug first: it must not pass for an outage.
            raise min(failures, key=lambda failure: isinstance(failure, SinkUnavailable))
        return refusals

    async def _send_lane(self, lane: asyncio.Lock, requests: Iterable[Request]) -> dict[int, Refusal]:
        await self._take(lane)
        try:
            refusals: dict[int, Refusal] = {}
            for request in requests:
                refusals |= await self._post(request)
            return refusals
        finally:
            lane.release()

    async def _take(self, lane: asyncio.Lock) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await lane.acquire()
        except TimeoutError as exc:
            raise SinkUnavailable(f"http: others have been waiting for an answer for {self._timeout} s") from exc

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
    Return each event once, with its wire form, under its execution, and by its place the refusal of each without one.

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
