"""
A NATS connection that reconnects for ever.

nats-py 2.16 by default stops after two minutes without a server, waits a fixed time between attempts, detects a dead
server after six minutes, and stays closed after an error it does not know.  This connection retries without end and
with jittered back-off, detects a dead server in 15 s (three pings), and the next call of `client` replaces a closed
client.

The first connection tries each server of the list once, each with its own timeout, and fails with the answers of all.
A caller may call again at once: until the next attempt is due, the same error is raised without one.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlparse

import structlog
from nats.errors import Error as NatsError

from noetl_events.jetstream.client import NATS_PY, TRANSPORT, DirectClient, end_task, missing_hooks
from noetl_events.jetstream.connect.greeting import reason_of
from noetl_events.jetstream.connect.payload_limit import PayloadLimit
from noetl_events.jetstream.connect.server_errors import Denials, denial_in, words_of
from noetl_events.jetstream.connect.servers import ServerPool
from noetl_events.jetstream.connect.tcp import transport_for
from noetl_events.jetstream.errors import ConnectionIsClosed, NatsUnavailable
from noetl_events.jetstream.options import require_modules

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from typing import Self
    from urllib.parse import ParseResult

    from nats.aio.client import Server
    from nats.js import JetStreamContext

    from noetl_events.jetstream.connect.transport import ServerTransport
    from noetl_events.jetstream.options import ConnectOptions

_GRACE: Final = 1.0
_PING_INTERVAL: Final = 5.0
_CLOSE_TIMEOUT: Final = 5.0
_FLUSH_TIMEOUT: Final = 2
_LOG_INTERVAL: Final = 60.0
_MOST_LOGGED: Final = 1_000

log = structlog.get_logger()


class Connection:
    """
    A connection to NATS, opened by the first call of `client` and closed by `aclose`.

    Args:
        options: servers, credentials and TLS.

    Raises:
        ModuleNotFoundError: *options* need a module that is not installed; the message names the extra to install.

    """

    def __init__(self, options: ConnectOptions) -> None:
        require_modules(options)
        self.options = options
        self._pool = ServerPool(options.urls)
        self._client: DirectClient | None = None
        self._transport: ServerTransport | None = None
        self._connecting: asyncio.Task[DirectClient] | None = None
        self._closed = False
        self._reconnected: list[Callable[[], None]] = []
        self._denials = Denials()
        self._logged_at: dict[str, float] = {}
        self._last_error = ""
        self._refusal = ""
        self._limit = PayloadLimit(self._read_limit)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def is_connected(self) -> bool:
        """True if the client is connected, as far as it has noticed."""
        return self._client is not None and self._client.is_connected

    @property
    def last_error(self) -> str:
        """Text of the last error, from the server or from nats-py; empty without one."""
        return self._last_error

    @property
    def trouble(self) -> str:
        """
        Reason why there is no connection, or why the last one was closed; empty if the connection is good.

        The reason that a server gave for closing a connection stays until another one has lasted for ten seconds,
        because the server may close the next one for the same reason.
        """
        if self.is_connected and (not self._refusal or self._pool.is_lasting):
            return ""
        if self._refusal:
            return self._refusal
        return f"not connected: {self._last_error}" if self._last_error and self._client else "not connected"

    @property
    def info(self) -> dict[str, Any]:
        """INFO of the server; empty before the first one."""
        return self._client.transport.info if self._client is not None else {}

    @property
    def max_payload(self) -> int:
        """Most bytes of a message with its headers, as last reported by the server; unlimited before the first INFO."""
        return self._client.max_payload if self._client is not None else sys.maxsize

    async def room_for(self, size: int) -> int:
        """
        Return `max_payload`, refreshed if *size* exceeds it (see `PayloadLimit`).

        Raises:
            NatsUnavailable: *size* exceeds the limit known so far, and the server does not answer with the present one.

        """
        if size > self.max_payload and self.is_connected:
            await self._refresh_limit()
            if size > self.max_payload and self._limit.unknown:
                raise NatsUnavailable(
                    f"{size} bytes with headers exceed the server's last known max_payload of {self.max_payload}, "
                    f"and its present one is unknown: {self._limit.unknown}"
                )
        return self.max_payload

    def api(self, request: str) -> str:
        """Return the subject of a JetStream *request* such as `STREAM.INFO.noetl_events`."""
        return f"{self.options.api}.{request}"

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Add a callback for the loss of pull requests and unanswered publishes: after a reconnection or a close."""
        self._reconnected.append(callback)

    def off_reconnect(self, callback: Callable[[], None]) -> None:
        """Remove a callback of `on_reconnect`."""
        self._reconnected.remove(callback)

    def denial(self, subject: str, action: str = "") -> str | None:
        """
        Return the server's error text if it has denied *subject* since the last call, else None.

        Args:
            subject: whole subject, or its first tokens.
            action: "publish" or "subscription"; either by default.

        """
        return self._denials.pop(subject, action)

    def tolerating(self, subject: str) -> AbstractContextManager[None]:
        """Report a denial of *subject* only through `denial`, not in the log: the caller expects one."""
        return self._denials.tolerating(subject)

    async def client(self) -> DirectClient:
        """
        Return the nats-py client, connected if necessary; it may be reconnecting at the moment.

        Raises:
            NatsUnavailable: no server accepted the connection; the message has the answer of each.
            OSError: a file with credentials or certificates cannot be read.
            ValueError: such a file has the wrong content.
            ConnectionIsClosed: this connection was closed by `aclose`.

        """
        if self._closed:
            raise ConnectionIsClosed("Connection is closed")
        if self._client is not None and not self._client.is_closed:
            return self._client
        if self._connecting is None:
            if rest := self._pool.pause:
                raise NatsUnavailable(f"{self._refusal}; next attempt in {rest:.1f} s")
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._on_attempt)
        # A cancelled caller leaves the attempt running for other callers and for `aclose`.
        return await asyncio.shield(self._connecting)

    async def jetstream(self) -> JetStreamContext:
        """Return nats-py's JetStream context of the current client; raises as `client`."""
        return (await self.client()).jetstream(prefix=self.options.api)

    async def aclose(self) -> None:
        """Flush and close; safe before first use and twice, and immediate while disconnected."""
        self._closed = True
        for task in (self._connecting, self._limit.refreshing):
            if task is not None:
                await end_task(task)
        if self._client is not None and not self._client.is_closed:
            if self._client.is_connected:
                with suppress(NatsError, OSError, asyncio.TimeoutError):
                    await self._client.flush(timeout=_FLUSH_TIMEOUT)
            await _close(self._client)

    def _on_attempt(self, attempt: asyncio.Task[DirectClient]) -> None:
        self._connecting = None
        if not attempt.cancelled():
            # Retrieve the exception, so asyncio does not report it as never retrieved.
            attempt.exception()

    async def _connect(self) -> DirectClient:
        is_rebuilt = self._client is not None
        try:
            arguments = self._arguments()
        except (OSError, ValueError) as exc:
            if not is_rebuilt:
                raise
            # The file was readable before, so it is probably being replaced.
            raise NatsUnavailable(f"cannot connect again: {exc}") from exc
        self._transport = transport_for(self.options, arguments.get("tls"))
        self._client = await self._first_connected(self._transport, arguments)
        self._client.options["allow_reconnect"] = True
        self._pool.connected()
        self._limit.unknown = ""
        if is_rebuilt:
            log.warning("connection.rebuilt", reason=self._last_error)
            self._announce()
        return self._client

    async def _first_connected(self, transport: ServerTransport, arguments: dict[str, Any]) -> DirectClient:
        """Return a client connected to the first server that accepts it."""
        if self.options.is_encrypted and TRANSPORT in missing_hooks():
            raise ValueError(f"nats-py: this release cannot enforce TLS, which is required; install {NATS_PY}")
        failures: dict[str, str] = {}
        is_refused = False
        servers = self._pool.round()
        for server in servers:
            try:
                # The other servers are candidates for a reconnection.
                names = [str(server), *(str(other) for other in servers if other is not server)]
                return await self._connect_client(transport, names, arguments)
            except (NatsError, OSError, TimeoutError) as exc:
                is_refused |= isinstance(exc, NatsError)
                failures[str(server)] = f"refuses: {words_of(exc)}" if isinstance(exc, NatsError) else reason_of(exc)
        self._refusal = _sentence(failures)
        self._pool.failed(is_refused=is_refused)
        raise NatsUnavailable(self._refusal)

    async def _connect_client(
        self, transport: ServerTransport, servers: Sequence[str], arguments: dict[str, Any]
    ) -> DirectClient:
        """Return a client connected to the first of *servers* that does not reconnect."""
        await transport.open(urlparse(servers[0]))
        if TRANSPORT in missing_hooks():
            await transport.wait_closed()
        client = DirectClient(transport, self._refresh_limit)
        connecting = asyncio.create_task(
            client.connect(
                servers=list(servers),
                dont_randomize=True,
                # nats-py would try the other servers, and never stop.
                allow_reconnect=False,
                disconnected_cb=partial(self._on_disconnected, client),
                closed_cb=partial(self._on_closed, client),
                error_cb=partial(self._on_error, client),
                **arguments,
            )
        )
        try:
            # `wait_for` does not work here: nats-py swallows a cancellation and restarts.
            await asyncio.wait({connecting}, timeout=self._patience)
            _require_done(connecting)
        except BaseException:
            # Nothing else knows the client yet, so close it here, also after a cancellation.
            await end_task(connecting)
            await _close(client)
            raise
        return client

    @property
    def _patience(self) -> float:
        # The transport has its own timeout and a better error text, so this one is a little longer.
        return self.options.connect_timeout + _GRACE

    def _arguments(self) -> dict[str, Any]:
        arguments = self.options.client_arguments(lambda: self._transport.address if self._transport else "")
        return arguments | {
            "connect_timeout": self._patience,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 0.25,
            "reconnect_to_server_handler": partial(self._before_reconnect, arguments.get("tls")),
            "ping_interval": _PING_INTERVAL,
            "max_outstanding_pings": 2,
            "reconnected_cb": self._on_reconnected,
        }

    def _before_reconnect(
        self, context: ssl.SSLContext | None, servers: list[Server], _: dict[str, Any]
    ) -> tuple[Server, float]:
        # nats-py fetches user, token and credentials at each connection, but keeps the TLS context.
        if context is not None:
            try:
                self.options.renew(context)
            except OSError as exc:
                log.warning("connection.certificate_unread", path=self.options.tls_cert, reason=str(exc))
        return self._pool.choose(servers)

    async def _refresh_limit(self) -> None:
        if self._client is not None:
            await self._limit.refresh(self._client)

    async def _read_limit(self, url: ParseResult) -> int:
        arguments = self.options.client_arguments(lambda: url.netloc) | {"connect_timeout": self._patience}
        client = await self._connect_client(
            transport_for(self.options, arguments.get("tls")), [url.geturl()], arguments
        )
        try:
            # The server sends the limit of the account before it answers this ping.
            await client.flush(timeout=_FLUSH_TIMEOUT)
            return client.max_payload
        finally:
            await _close(client)

    # nats-py calls these callbacks in its reading or reconnecting task, so they must not raise.

    async def _on_error(self, client: DirectClient, error: Exception) -> None:
        # A second client next to a connected one only refreshes the limit, so its errors do not count.
        if client is not self._client and self.is_connected:
            return
        if (denial := denial_in(error)) is not None:
            if self._denials.record(denial):
                self._log_limited("connection.denied", denial.words)
            return
        self._last_error = words_of(error) if isinstance(error, NatsError) else reason_of(error)
        if client is self._client and client.is_reconnecting:
            self._log_limited("connection.retrying", f"{client.transport.address} {self._last_error}")

    async def _on_disconnected(self, client: DirectClient) -> None:
        # This is also called when a client that never connected is closed.
        if client is not self._client:
            return
        client.fail_requests()
        if self._closed:
            return
        # nats-py reports an error that closes the client for good only here.
        self._last_error = words_of(client.last_error) or client.transport.ended or self._last_error
        if client.is_closed:
            self._refusal = f"{client.transport.address} has closed the connection: {self._last_error}"
        self._pool.lost(is_refused=client.is_closed)
        self._log_limited("connection.lost", self._last_error)

    async def _on_closed(self, client: DirectClient) -> None:
        # The client is closed for good, as after a revoked credential, so readers must not wait for messages.
        if client is self._client and not self._closed:
            self._announce()

    async def _on_reconnected(self) -> None:
        self._pool.connected()
        self._last_error = self._limit.unknown = ""
        log.info("connection.restored")
        self._announce()

    def _log_limited(self, event: str, reason: str) -> None:
        """Log *event*, unless it was logged with the same reason within a minute."""
        now = time.monotonic()
        if now - self._logged_at.get(event + reason, -_LOG_INTERVAL) >= _LOG_INTERVAL:
            log.warning(event, reason=reason)
            self._logged_at[event + reason] = now
            if len(self._logged_at) > _MOST_LOGGED:
                del self._logged_at[next(iter(self._logged_at))]

    def _announce(self) -> None:
        for callback in tuple(self._reconnected):
            callback()


def _sentence(failures: Mapping[str, str]) -> str:
    if len(failures) == 1:
        ((server, reason),) = failures.items()
        return f"cannot connect to {server}: it {reason}"
    return "cannot connect: " + "; ".join(f"{server} {reason}" for server, reason in failures.items())


def _require_done(connecting: asyncio.Task[None]) -> None:
    if not connecting.done():
        raise TimeoutError("does not answer in time")
    connecting.result()


async def _close(client: DirectClient) -> None:
    with suppress(NatsError, OSError, TimeoutError):
        async with asyncio.timeout(_CLOSE_TIMEOUT):
            await client.close()
