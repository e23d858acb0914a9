"""The gateway's API as the live page uses it, in one process, with its stream in memory and every fault to order."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, cast
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from socket import socket

PAGE: Final = Path(__file__).parents[2] / "consumers" / "gateway" / "page.html"
_NONCE: Final = "bm9uY2U"
# Stricter than a gateway needs: under trusted types a single assignment of text to markup is an error.
_POLICY: Final = (
    "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    f"script-src 'nonce-{_NONCE}'; style-src 'nonce-{_NONCE}'; require-trusted-types-for 'script'"
)
_HEARTBEAT: Final = 1.0


class StubGateway(ThreadingHTTPServer):
    """A gateway that forgets, refuses and hangs up when told to."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.changed: Final = threading.Condition()
        self.events: list[tuple[int, bytes]] = []
        self.last = 0
        self.consumers: list[dict[str, Any]] = []
        self.dead: list[dict[str, Any]] = []
        self.token = ""
        self.refuses = False
        self.streams: set[socket] = set()
        self.resumed_after: list[str | None] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.hang_up()
        self.server_close()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, *_: object) -> None:
        """Say nothing: pages go away while they are answered."""

    def emit(self, *events: dict[str, Any] | bytes) -> None:
        """Append *events* to the stream; bytes as they are."""
        with self.changed:
            for event in events:
                self.last += 1
                body = event if isinstance(event, bytes) else json.dumps(event).encode()
                self.events.append((self.last, body))
            self.changed.notify_all()

    def forget(self, up_to: int) -> None:
        """Let go of every event up to a sequence, as a full stream does."""
        with self.changed:
            self.events = [(sequence, body) for sequence, body in self.events if sequence > up_to]

    def create_anew(self) -> None:
        """Empty the stream, and start its sequences again."""
        with self.changed:
            self.events, self.last = [], 0

    def hang_up(self) -> None:
        """Cut every stream that is being read."""
        for each in list(self.streams):
            with suppress(OSError):
                each.shutdown(2)

    def status(self) -> dict[str, Any]:
        """Return what `GET /api/status` says."""
        first = self.events[0][0] if self.events else self.last + 1
        created = "2026-11-20T09:00:00Z"
        stream = {"name": "noetl_events", "messages": len(self.events), "first_sequence": first, "created": created}
        return {
            "stream": stream | {"last_sequence": self.last},
            "consumers": self.consumers,
            "dead_letters": len(self.dead),
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    @property
    def gateway(self) -> StubGateway:
        return cast("StubGateway", self.server)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        """Answer as the gateway does."""
        at = urlsplit(self.path)
        if at.path == "/":
            self._answer(PAGE.read_bytes().replace(b"__NONCE__", _NONCE.encode()), "text/html; charset=utf-8")
        elif self.gateway.refuses:
            self._answer(b"{}", status=503)
        elif self.gateway.token and self.headers["Authorization"] != f"Bearer {self.gateway.token}":
            self._answer(b"{}", status=401)
        elif at.path == "/api/events/stream":
            self._stream(parse_qs(at.query).get("from", ["new"])[0])
        else:
            self._rest(at.path)

    def _rest(self, path: str) -> None:
        if path == "/api/status":
            self._answer(json.dumps(self.gateway.status()).encode())
        elif path == "/api/dead":
            self._answer(json.dumps(self.gateway.dead).encode())
        elif path.startswith("/api/executions/"):
            execution = f'"execution_id": {path.rpartition("/")[2]},'.encode()
            found = [b'{"sequence":%d,"event":%b}' % each for each in self.gateway.events if execution in each[1]]
            self._answer(b'{"events":[%b],"next":null}' % b",".join(found))
        else:
            self._answer(b"{}", status=404)

    def _answer(self, body: bytes, kind: str = "application/json", status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", _POLICY)
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, start: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        resumed = self.headers["Last-Event-ID"]
        self.gateway.resumed_after.append(resumed)
        self.gateway.streams.add(self.connection)
        with suppress(OSError):
            self._follow(self._resumed(resumed) if resumed else 0 if start == "start" else self.gateway.last)
        self.gateway.streams.discard(self.connection)

    def _resumed(self, resumed: str) -> int:
        said = self.gateway.status()["stream"]
        lost = int(resumed) + 1 < said["first_sequence"]
        anew = int(resumed) > said["last_sequence"]
        if not lost and not anew:
            return int(resumed)
        reason = "the stream was created anew" if anew else "older than the stream"
        gap = {"reason": reason, "first_sequence": said["first_sequence"], "last_sequence": said["last_sequence"]}
        self.wfile.write(f"event: resync\ndata: {json.dumps(gap)}\n\n".encode())
        return int(said["first_sequence"]) - 1

    def _follow(self, sent: int) -> None:
        while True:
            with self.gateway.changed:
                fresh = [(sequence, body) for sequence, body in self.gateway.events if sequence > sent]
                if not fresh:
                    self.gateway.changed.wait(_HEARTBEAT)
            if fresh:
                sent = fresh[-1][0]
            self.wfile.write(b"".join(b"id: %d\ndata: %b\n\n" % each for each in fresh) or b": heartbeat\n\n")
