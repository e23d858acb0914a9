"""The border to aiohttp: one request out, one answer back."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Final

import aiohttp

from noetl_events.sink import SinkUnavailable
from noetl_events.sinks.http.address import open_socket
from noetl_events.sinks.http.answer import MAX_BODY, Answer
from noetl_events.sinks.http.requests import Request, idempotency_key
from noetl_events.trace_context import trace_headers

if TYPE_CHECKING:
    from noetl_events.sinks.http.target import Target

# Shorter than uvicorn keeps a connection, or requests would meet connections that are just being closed.
_KEEP_ALIVE: Final = 4.0
_HEADERS: Final = {
    "Content-Type": "application/json",
    # No body that grows when it is unpacked.
    "Accept-Encoding": "identity",
    "User-Agent": "noetl-events",
}


class Client:
    """
    Post requests to *target*, over connections that are opened when needed.

    Args:
        target: where to.
        timeout: seconds for one request with its answer.
        connections: open at a time, at most.

    """

    def __init__(self, target: Target, *, timeout: float, connections: int) -> None:
        self._target = target
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def post(self, request: Request) -> Answer:
        """
        Return what the server answers.

        Raises:
            SinkUnavailable: nothing, or nothing in time; whether it has stored the events nobody knows.

        """
        body = request.body()
        url = self._target.batch_url if request.is_batch else self._target.url
        headers = _HEADERS | trace_headers() | self._target.headers() | {"Idempotency-Key": idempotency_key(body)}
        try:
            try:
                return await self._post(url, body, headers)
            except aiohttp.ServerDisconnectedError:
                # Perhaps it closed the idle connection as we were about to use it.  It knows the key and the ids.
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
        # A stream: aiohttp writes one piece by piece, and so leaves the loop to others in between.
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
                # A server's cookies are no part of what is posted.
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
