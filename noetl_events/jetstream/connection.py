"""
One NATS connection that never gives up.

nats-py 2.16 by default stops after two minutes without a server, waits a fixed time between attempts, finds a dead peer
after six minutes, and stays closed for good after an error it does not know.  Here: for ever, with jittered back-off, a
dead peer found in 15 s (three pings), and a closed client replaced by the next call of `client`.

The first connection tries each server of the list once, each with its own timeout, and fails with what each of them
said: a caller that can wait calls again, and is told the same without another attempt until it is time for one.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlparse

import structlog
from nats.errors import Error as NatsError

from noetl_events.jetstream.client import NATS_PY, TRANSPORT, DirectClient, missing_hooks
from noetl_events.jetstream.connect.greeting import reason_of
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

    from nats.aio.client import Server
    from nats.js import JetStreamContext

    from noetl_events.jetstream.connect.transport import ServerTransport
    from noetl_events.jetstream.options import ConnectOptions

_GRACE: Final = 1.0
_PING_INTERVAL: Final = 5.0
_CLOSE_TIMEOUT: Final = 5.0
_FAREWELL: Final = 2
_CANCEL_AGAIN: Final = 0.5
_SAY_AGAIN: Final = 60.0
_MOST_SAID: Final = 1_000

log = structlog.get_logger()


class Connection:
    """
    A connection to NATS, made at the first call of `client` and closed by `aclose`.

    Args:
        options: where, and who we are.

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
        self._said: dict[str, float] = {}
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
        """What went wrong last, in the words of the server or of nats-py; empty if nothing has."""
        return self._last_error

    @property
    def trouble(self) -> str:
        """
        Why no connection was made or kept, in words; empty while all is well.

        What a server gave as its reason to close a connection stands until another one has lasted for ten seconds: it
        may close the next one for the same.
        """
        if self.is_connected and (not self._refusal or self._pool.is_lasting):
            return ""
        if self._refusal:
            return self._refusal
        return f"not connected: {self._last_error}" if self._last_error and self._client else "not connected"

    @property
    def info(self) -> dict[str, Any]:
        """What the server has said of itself (its INFO); empty before the first one."""
        return self._client.transport.info if self._client is not None else {}

    def api(self, request: str) -> str:
        """Return the subject of a *request* to JetStream, as `STREAM.INFO.noetl_events`."""
        return f"{self.options.api}.{request}"

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Have *callback* called once pull requests and unanswered publishes are lost: reconnected, or closed."""
        self._reconnected.append(callback)

    def off_reconnect(self, callback: Callable[[], None]) -> None:
        """Undo `on_reconnect`."""
        self._reconnected.remove(callback)

    def denial(self, subject: str, action: str = "") -> str | None:
        """
        Return the server's words if it has denied us *subject* since the last call, else None.

        Args:
            subject: whole, or up to a token.
            action: "publish" or "subscription"; either by default.

        """
        return self._denials.take(subject, action)

    def tolerating(self, subject: str) -> AbstractContextManager[None]:
        """Have a denial of *subject* told by `denial` alone, and not logged as an error: it is worth a try."""
        return self._denials.tolerating(subject)

    async def client(self) -> DirectClient:
        """
        Return the nats-py client, connected first or anew if need be; it may be reconnecting at the moment.

        Raises:
            NatsUnavailable: no server took us, now or a moment ago; the message says what each of them did.
            OSError: a file with credentials or certificates cannot be read.
            ValueError: such a file does not hold what it should.
            ConnectionIsClosed: this connection was closed by `aclose`.

        """
        if self._closed:
            raise ConnectionIsClosed("Connection is closed")
        if self._client is not None and not self._client.is_closed:
            return self._client
        if self._connecting is None:
            if rest := self._pool.rest:
                raise NatsUnavailable(f"{self._refusal}; tried again in {rest:.1f} s")
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._on_attempt)
        # Whoever is cancelled leaves the attempt to the others, and to `aclose`.
        return await asyncio.shield(self._connecting)

    async def jetstream(self) -> JetStreamContext:
        """Return nats-py's JetStream of the client as it is now; raises as `client`."""
        return (await self.client()).jetstream(prefix=self.options.api)

    async def aclose(self) -> None:
        """Flush and close; safe before first use, twice, and at once while the server is away."""
        self._closed = True
        if self._connecting is not None:
            await _end(self._connecting)
        if self._client is not None and not self._client.is_closed:
            if self._client.is_connected:
                with suppress(NatsError, OSError, asyncio.TimeoutError):
                    await self._client.flush(timeout=_FAREWELL)
            await _close(self._client)

    def _on_attempt(self, attempt: asyncio.Task[DirectClient]) -> None:
        self._connecting = None
        if not attempt.cancelled():
            # Looked at, for when nobody waits any more.
            attempt.exception()

    async def _connect(self) -> DirectClient:
        is_rebuilt = self._client is not None
        try:
            arguments = self._arguments()
        except (OSError, ValueError) as exc:
            if not is_rebuilt:
                raise
            # It was good before: it is being replaced.
            raise NatsUnavailable(f"cannot connect again: {exc}") from exc
        self._transport = transport_for(self.options, arguments.get("tls"))
        self._client = await self._first_connected(self._transport, arguments)
        self._pool.connected()
        if is_rebuilt:
            log.warning("connection.rebuilt", reason=self._last_error)
            self._announce()
        return self._client

    async def _first_connected(self, transport: ServerTransport, arguments: dict[str, Any]) -> DirectClient:
        """Return a client of the first server that takes us."""
        is_ours = TRANSPORT not in missing_hooks()
        if self.options.is_encrypted and not is_ours:
            raise ValueError(f"nats-py: this release cannot be held to TLS, which is wanted; install {NATS_PY}")
        failures: dict[str, str] = {}
        is_refused = False
        servers = self._pool.round()
        for server in servers:
            try:
                await transport.open(urlparse(str(server)))
                if not is_ours:
                    await transport.wait_closed()
                # The others are for a reconnection.
                names = [str(server), *(str(other) for other in servers if other is not server)]
                return await self._taken(DirectClient(transport), names, arguments)
            except (NatsError, OSError, TimeoutError) as exc:
                is_refused |= isinstance(exc, NatsError)
                failures[str(server)] = f"refuses: {words_of(exc)}" if isinstance(exc, NatsError) else reason_of(exc)
        self._refusal = _sentence(failures)
        self._pool.failed(is_refused=is_refused)
        raise NatsUnavailable(self._refusal)

    async def _taken(self, client: DirectClient, servers: Sequence[str], arguments: dict[str, Any]) -> DirectClient:
        """Return *client* once the first of *servers* has taken it."""
        connecting = asyncio.create_task(
            client.connect(
                servers=list(servers),
                dont_randomize=True,
                # nats-py would go on to the others, and never end.
                allow_reconnect=False,
                disconnected_cb=partial(self._on_disconnected, client),
                closed_cb=partial(self._on_closed, client),
                error_cb=partial(self._on_error, client),
                **arguments,
            )
        )
        try:
            # Not `wait_for`: nats-py swallows a cancellation, and begins again.
            await asyncio.wait({connecting}, timeout=self.options.connect_timeout + _GRACE)
            _require_done(connecting)
        except BaseException:
            await _end(connecting)
            await _close(client)
            raise
        client.options["allow_reconnect"] = True
        return client

    def _arguments(self) -> dict[str, Any]:
        arguments = self.options.client_arguments(lambda: self._transport.address if self._transport else "")
        return arguments | {
            # A little more than the transport's own, which knows why.
            "connect_timeout": self.options.connect_timeout + _GRACE,
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
        # nats-py asks for user, token and credentials each time by itself; a context it keeps.
        if context is not None:
            try:
                self.options.renew(context)
            except OSError as exc:
                log.warning("connection.certificate_unread", path=self.options.tls_cert, reason=str(exc))
        return self._pool.choose(servers)

    # What follows is called by nats-py, in the task that reads or the one that reconnects: it must not raise.

    async def _on_error(self, client: DirectClient, error: Exception) -> None:
        if (denial := denial_in(error)) is not None:
            if self._denials.note(denial):
                self._say("connection.denied", denial.words)
            return
        self._last_error = words_of(error) if isinstance(error, NatsError) else reason_of(error)
        if client is self._client and client.is_reconnecting:
            self._say("connection.retrying", f"{client.transport.address} {self._last_error}")

    async def _on_disconnected(self, client: DirectClient) -> None:
        # Closing a client that never connected calls this too.
        if client is not self._client:
            return
        client.lose_requests()
        if self._closed:
            return
        # Of an error that closes it for good nats-py tells nothing but this.
        self._last_error = words_of(client.last_error) or client.transport.ended or self._last_error
        if client.is_closed:
            self._refusal = f"{client.transport.address} has closed the connection: {self._last_error}"
        self._pool.lost(is_refused=client.is_closed)
        self._say("connection.lost", self._last_error)

    async def _on_closed(self, client: DirectClient) -> None:
        # For good, as after a revoked credential: who waits for a message would wait in vain.
        if client is self._client and not self._closed:
            self._announce()

    async def _on_reconnected(self) -> None:
        self._pool.connected()
        self._last_error = ""
        log.info("connection.restored")
        self._announce()

    def _say(self, event: str, reason: str) -> None:
        """Log it, unless the same was said within a minute."""
        now = time.monotonic()
        if now - self._said.get(event + reason, -_SAY_AGAIN) >= _SAY_AGAIN:
            log.warning(event, reason=reason)
            self._said[event + reason] = now
            if len(self._said) > _MOST_SAID:
                del self._said[next(iter(self._said))]

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


async def _end(task: asyncio.Task[Any]) -> None:
    while not task.done():
        task.cancel()
        # More than once: nats-py swallows a cancellation that comes while it flushes.
        await asyncio.wait({task}, timeout=_CANCEL_AGAIN)


async def _close(client: DirectClient) -> None:
    with suppress(NatsError, OSError, TimeoutError):
        async with asyncio.timeout(_CLOSE_TIMEOUT):
            await client.close()
