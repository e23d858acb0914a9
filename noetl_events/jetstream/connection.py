"""
One NATS connection that never gives up.

nats-py 2.16 by default stops after two minutes without a server, waits a fixed time between attempts, finds a dead peer
after six minutes, and stays closed for good after an error it does not know.  Here: for ever, with jittered back-off, a
dead peer found in 15 s (three pings), and a closed client replaced by the next call of `client`.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog
from nats.errors import Error as NatsError

from noetl_events.jetstream.direct_client import DirectClient
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.options import ConnectOptions, redacted

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from typing import Self

    from nats.aio.client import Server
    from nats.js import JetStreamContext

_PING_INTERVAL: Final = 5.0
_MAX_RECONNECT_WAIT: Final = 5.0
_CLOSE_TIMEOUT: Final = 5.0
_SAY_AGAIN: Final = 60.0
_MOST_DENIALS: Final = 1_000

log = structlog.get_logger()


class Connection:
    """
    A connection to NATS, made at the first call of `client` and closed by `aclose`.

    Args:
        options: where, and who we are.

    """

    def __init__(self, options: ConnectOptions) -> None:
        self.options = options
        self._client: DirectClient | None = None
        self._lock = asyncio.Lock()
        self._closed = False
        self._reconnected: list[Callable[[], None]] = []
        self._denied: dict[str, str] = {}
        self._said: dict[str, float] = {}
        self._tolerated: set[str] = set()
        self._last_error = ""
        self._refusal = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def is_connected(self) -> bool:
        """Whether the server is there now, as far as this client has noticed."""
        return self._client is not None and self._client.is_connected

    @property
    def last_error(self) -> str:
        """What went wrong last, in nats-py's words; empty if nothing has."""
        return self._last_error

    def api(self, request: str) -> str:
        """Return the subject of a *request* to JetStream, as `STREAM.INFO.noetl_events`."""
        return f"{self.options.api}.{request}"

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Have *callback* called once pull requests and unanswered publishes are lost: reconnected, or closed."""
        self._reconnected.append(callback)

    def off_reconnect(self, callback: Callable[[], None]) -> None:
        """Undo `on_reconnect`."""
        self._reconnected.remove(callback)

    def denial(self, subject: str) -> str | None:
        """Return the server's words if it has denied us *subject* since the last call, else None."""
        return next((self._denied.pop(key) for key in list(self._denied) if subject.lower() in key), None)

    @contextmanager
    def tolerating(self, subject: str) -> Iterator[None]:
        """Have a denial of *subject* told by `denial` alone, and not logged as an error: it is worth a try."""
        self._tolerated.add(subject.lower())
        try:
            yield
        finally:
            self._tolerated.discard(subject.lower())

    async def client(self) -> DirectClient:
        """
        Return the nats-py client, connected first or anew if need be; it may be reconnecting at the moment.

        Raises:
            NatsUnavailable: no server took us within the connect timeout.
            RuntimeError: this connection was closed by `aclose`.

        """
        if self._client is not None and not self._client.is_closed:
            return self._client
        async with self._lock:
            if self._closed:
                raise RuntimeError("Connection is closed")
            if self._client is None or self._client.is_closed:
                rebuilt = self._client is not None
                self._client = await self._connect()
                if rebuilt:
                    log.warning("connection.rebuilt", reason=self._last_error)
                    self._announce()
            return self._client

    async def jetstream(self) -> JetStreamContext:
        """Return nats-py's JetStream of the client as it is now; raises as `client`."""
        return (await self.client()).jetstream(prefix=self.options.api)

    async def aclose(self) -> None:
        """Flush and close; safe before first use, twice, and while the server is away."""
        async with self._lock:
            self._closed = True
            if self._client is not None and not self._client.is_closed:
                if self._client.is_connected:
                    with suppress(NatsError, OSError, asyncio.TimeoutError):
                        await self._client.flush(timeout=int(_CLOSE_TIMEOUT))
                await _close(self._client)

    async def _connect(self) -> DirectClient:
        client = DirectClient()

        async def on_closed() -> None:
            # For good, as after a revoked credential: whoever waits for a message would wait in vain.
            if client is self._client and not self._closed:
                self._announce()

        self._refusal = ""
        try:
            async with asyncio.timeout(self.options.connect_timeout):
                await client.connect(**self._arguments(), closed_cb=on_closed)
        except (NatsError, OSError, TimeoutError) as exc:
            await _close(client)
            reason = self._refusal or self._last_error or str(exc) or type(exc).__name__
            where = ", ".join(redacted(url) for url in self.options.server_list)
            raise NatsUnavailable(f"cannot connect to {where}: {reason}") from exc
        except asyncio.CancelledError:
            # Nobody else knows of it.
            await _close(client)
            raise
        return client

    def _arguments(self) -> dict[str, Any]:
        arguments = self.options.client_arguments()
        return arguments | {
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 0.25,
            "reconnect_to_server_handler": partial(self._before_reconnect, arguments.get("tls")),
            "ping_interval": _PING_INTERVAL,
            "max_outstanding_pings": 2,
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnected,
            "reconnected_cb": self._on_reconnected,
        }

    def _before_reconnect(
        self, context: ssl.SSLContext | None, servers: list[Server], info: dict[str, Any]
    ) -> tuple[Server, float]:
        # nats-py asks for user, token and credentials each time by itself; a context it keeps.
        if context is not None:
            try:
                self.options.renew(context)
            except OSError as exc:
                log.warning("connection.certificate_unread", path=self.options.tls_cert, reason=str(exc))
        return _next_server(servers, info)

    async def _on_error(self, error: Exception) -> None:
        # Called by nats-py in its reading task, which an exception would end: this must not raise.
        self._last_error = str(error) or type(error).__name__
        if "authorization violation" in self._last_error.lower():
            # The reset that follows says less.
            self._refusal = self._last_error
        if "permissions violation" in self._last_error.lower():
            self._note_denial(self._last_error)

    def _note_denial(self, denial: str) -> None:
        key, now = denial.lower(), time.monotonic()
        is_tolerated = any(subject in key for subject in self._tolerated)
        if not is_tolerated and now - self._said.get(key, -_SAY_AGAIN) >= _SAY_AGAIN:
            log.error("connection.denied", reason=denial)
            self._said[key] = now
        self._denied[key] = denial
        for noted in (self._denied, self._said):
            if len(noted) > _MOST_DENIALS:
                del noted[next(iter(noted))]

    async def _on_disconnected(self) -> None:
        # Closing a client that never connected calls this too.
        if self._client is not None:
            self._client.lose_requests()
            if not self._closed:
                log.warning("connection.lost", reason=self._last_error)

    async def _on_reconnected(self) -> None:
        log.info("connection.restored")
        self._announce()

    def _announce(self) -> None:
        for callback in tuple(self._reconnected):
            callback()


def _next_server(servers: list[Server], _info: dict[str, Any]) -> tuple[Server, float]:
    """Choose the server tried least, and how long to wait first: doubling, with full jitter."""
    server = min(servers, key=lambda candidate: candidate.reconnects)
    limit = min(_MAX_RECONNECT_WAIT, 0.1 * 2 ** min(server.reconnects, 10))
    return server, random.uniform(0, limit)


async def _close(client: DirectClient) -> None:
    with suppress(NatsError, OSError, TimeoutError):
        async with asyncio.timeout(_CLOSE_TIMEOUT):
            await client.close()
