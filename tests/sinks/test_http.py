"""HttpSink: the contract, and the grouping of events into requests."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import msgspec
import pytest
import trustme

from noetl_events import SinkUnavailable, encode, open_sink
from noetl_events.sinks.http import HttpSink
from noetl_events.testing import SinkContract, make_event, make_events
from tests.sinks.http_server import EventServer, serving

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator
    from pathlib import Path

    from noetl_events import EventSink, ExecutorEvent


@pytest.fixture
async def server() -> AsyncIterator[EventServer]:
    """Return a working server."""
    server = EventServer()
    async with serving(server):
        yield server


@pytest.fixture
async def sink(server: EventServer) -> AsyncIterator[HttpSink]:
    """Return a sink to the server."""
    sink = HttpSink(server.url)
    yield sink
    await sink.aclose()


class TestHttpSink(SinkContract):
    """HttpSink keeps the contract of a sink."""

    keyed = False

    @pytest.fixture(autouse=True)
    def _server(self, server: EventServer) -> None:
        self.server = server

    def open(self) -> EventSink:
        """Return a new sink to the server of this test."""
        return open_sink(self.server.url)

    async def stored(self) -> list[ExecutorEvent]:
        """Return the events that the server has stored."""
        return list(self.server.kept.values())


class TestHttpSinkWithDuplicates(TestHttpSink):
    """The contract holds where the server answers 409 with a body that says stored."""

    @pytest.fixture(autouse=True)
    def _duplicates(self, server: EventServer) -> None:
        server.known = {"duplicate": True}


class TestHttpSinkWithBare409(TestHttpSink):
    """The contract holds where the server answers a bare 409 and the operator declares it as stored."""

    @pytest.fixture(autouse=True)
    def _bare(self, server: EventServer) -> None:
        server.known = {"detail": "known"}

    def open(self) -> EventSink:
        """Return a new sink to the server of this test."""
        return open_sink(f"{self.server.url}?on_409=stored")


async def test_one_event_goes_to_the_single_endpoint_as_it_is(sink: HttpSink, server: EventServer) -> None:
    """A single event is posted in its own wire form."""
    await sink.emit(make_event(1))

    assert [("/api/events", encode(make_event(1)))] == [(posted.path, posted.body) for posted in server.requests]


async def test_batch_names_its_execution_and_worker(sink: HttpSink, server: EventServer) -> None:
    """Several events are posted together, with their execution and the worker that all of them share."""
    await sink.emit_batch(make_events(2))
    await sink.emit_batch([make_event(3), make_event(4, worker_id=None)])
    shared, mixed = [msgspec.json.decode(posted.body) for posted in server.requests]

    assert [*shared] == ["execution_id", "worker_id", "events"]
    assert [shared["execution_id"], shared["worker_id"]] == [make_event().execution_id, "worker-7"]
    assert [*mixed] == ["execution_id", "events"]
    assert [posted.path for posted in server.requests] == ["/api/events/batch"] * 2


async def test_request_has_at_most_256_events_of_one_execution(sink: HttpSink, server: EventServer) -> None:
    """A long batch of several executions becomes requests within the server's limits, each execution in order."""
    events = [make_event(number, execution_id=number % 3) for number in range(1, 1200)]
    await sink.emit_batch(events)
    sizes = sorted(len(posted.ids) for posted in server.requests)

    assert sizes == [143, 143, 144, 256, 256, 256] or max(sizes) <= 256
    for execution_id in range(3):
        stored = [event_id for execution, event_id in server.stored if execution == execution_id]
        assert stored == [event.event_id for event in events if event.execution_id == execution_id]


async def test_request_has_at_most_2_mib(sink: HttpSink, server: EventServer) -> None:
    """Long events share a request as long as they fit, and one that is too long is posted alone."""
    sizes = [900_000, 900_000, 900_000, 2_500_000, 10, 10]
    await sink.emit_batch([make_event(number, context="x" * size) for number, size in enumerate(sizes, start=1)])

    assert [posted.ids for posted in server.requests] == [[1, 2], [3], [4], [5, 6]]
    assert all(len(posted.body) <= 2 * 2**20 for posted in server.requests if len(posted.ids) > 1)


async def test_request_may_be_filled_to_the_last_byte(sink: HttpSink, server: EventServer) -> None:
    """Two events that fill a request exactly are posted together, and with one byte more separately."""
    bodies = sum(len(encode(make_event(number, context=""))) for number in (1, 2))
    around = len(b'{"execution_id":478775660589088776,"worker_id":"worker-7","events":[,]}')
    room = 2 * 2**20 - around - bodies
    for extra in (0, 1):
        await sink.emit_batch([make_event(1, context="x" * (room + extra - 5)), make_event(2, context="x" * 5)])

    assert [posted.ids for posted in server.requests] == [[1, 2], [1], [2]]
    assert len(server.requests[0].body) == 2 * 2**20


async def test_executions_are_concurrent_and_each_in_order(server: EventServer) -> None:
    """Requests of different executions overlap, up to the limit; those of one never do."""
    sink = HttpSink(server.url, concurrency=3)
    events = [make_event(number, execution_id=number % 10) for number in range(1, 201)]
    await asyncio.gather(*(sink.emit(event) for event in events))
    await sink.aclose()

    assert server.overlaps == 0
    assert 1 < server.most_at_once <= 3
    for execution_id in range(10):
        stored = [event_id for execution, event_id in server.stored if execution == execution_id]
        assert stored == sorted(stored)


async def test_same_content_has_the_same_key(sink: HttpSink, server: EventServer) -> None:
    """An event emitted again has the same idempotency key, and other content another."""
    for batch in ([1], [1], [2], [1, 2], [1, 2]):
        await sink.emit_batch([make_event(number) for number in batch])
    keys = [posted.key for posted in server.requests]

    assert keys[0] == keys[1]
    assert keys[3] == keys[4]
    assert len({*keys}) == 3


async def test_token_file_is_read_for_every_request(server: EventServer, tmp_path: Path) -> None:
    """A token renewed in its file is used from the next request on."""
    token_file = tmp_path / "token"
    sink = open_sink(f"{server.url}?token_file={token_file}")
    for number, token in enumerate(["first\n", "second"]):
        token_file.write_text(token)
        await sink.emit(make_event(number))
    await sink.aclose()

    assert [posted.headers["Authorization"] for posted in server.requests] == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize("content", [None, "", "se cret", "se\ncret", "secret\u00e9"])
async def test_unreadable_token_holds_events(server: EventServer, tmp_path: Path, content: str | None) -> None:
    """Without a readable token nothing is posted, and the file's content is not shown."""
    token_file = tmp_path / "token"
    if content is not None:
        token_file.write_text(content)
    sink = HttpSink(server.url, token_file=str(token_file))
    with pytest.raises(SinkUnavailable, match="token_file") as failure:
        await sink.emit(make_event(1))
    await sink.aclose()

    assert server.requests == []
    assert "cret" not in failure.value.reason


@pytest.fixture
async def tls_server(tmp_path: Path) -> AsyncIterator[EventServer]:
    """Return a server with a certificate of its own authority, stored in `ca.pem`."""
    from ssl import PROTOCOL_TLS_SERVER, SSLContext  # noqa: PLC0415  (otherwise needed only for annotations)

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context: ssl.SSLContext = SSLContext(PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    server = EventServer()
    async with serving(server, tls=context):
        yield server


async def test_certificate_is_verified(tls_server: EventServer, tmp_path: Path) -> None:
    """A server with an unknown authority gets nothing, and one with a configured authority gets the events."""
    stranger, known = HttpSink(tls_server.url), open_sink(f"{tls_server.url}?tls_ca={tmp_path}/ca.pem")
    with pytest.raises(SinkUnavailable, match=r"(?i)certificate"):
        await stranger.emit(make_event(1))
    await known.emit(make_event(2))
    await stranger.aclose()
    await known.aclose()

    assert [event.event_id for event in tls_server.stored.values()] == [2]


async def test_certificate_of_another_name_is_refused(tls_server: EventServer, tmp_path: Path) -> None:
    """The certificate must name the host of the URL."""
    sink = HttpSink(tls_server.url.replace("localhost", "127.0.0.1"), tls_ca=str(tmp_path / "ca.pem"))
    with pytest.raises(SinkUnavailable, match=r"(?i)certificate"):
        await sink.emit(make_event(1))
    await sink.aclose()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        pytest.param("http://example.org/api/events", "is not encrypted", id="plain to another machine"),
        pytest.param("http://127.0.0.1.example.org/api/events", "is not encrypted", id="looks like this machine"),
        pytest.param("https:///api/events", "is not a URL such as", id="no host"),
        pytest.param("https://u:secret@host/api/events", "has a user or password", id="password"),
        pytest.param("https://host/api/events?token=secret", "no option token; known: insecure", id="unknown option"),
        pytest.param("https://u:a?hunter2@host/api/events", "write that . as %3F", id="question mark in a password"),
        pytest.param("https://host/api/events?insecure=yes", "insecure=yes is neither", id="no flag"),
        pytest.param("https://host/api/events?on_409=no", "on_409: 'no' is neither reject nor", id="no answer to 409"),
        pytest.param("https://host/api/events?timeout=0", "timeout=0 is no number", id="no time"),
        pytest.param("https://host/api/events#secret", "is not a URL such as", id="fragment"),
    ],
)
def test_wrong_url_is_refused(url: str, reason: str) -> None:
    """A URL that is unsafe for events is refused, without a secret in the message."""
    with pytest.raises(ValueError, match=reason) as failure:
        HttpSink.from_url(url)

    assert "secret" not in str(failure.value).replace("#secret", "")


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[fe80::1]", "[fe80::1%25eth0]", "[fd00:ec2::254]", "[::ffff:169.254.170.2]"]
)
def test_metadata_service_is_no_destination(host: str) -> None:
    """A metadata service's address, and any other link-local one, is refused in every notation."""
    with pytest.raises(ValueError, match="link-local or a cloud's metadata service"):
        HttpSink(f"https://{host}/api/events")


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "::ffff:169.254.169.254"])
async def test_name_that_leads_to_a_metadata_service_holds(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is judged by its address: nothing is sent to a metadata service, and the events are retried."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    rest = (0, 0) if ":" in address else ()
    found = [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 443, *rest))]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: found)
    sink = HttpSink("https://events.example.org/api/events")
    with pytest.raises(SinkUnavailable, match="link-local or a cloud's metadata service"):
        await sink.emit(make_event(1))
    await sink.aclose()


@pytest.mark.parametrize("url", ["https://10.1.2.3/x", "https://192.168.1.2/x", "https://[fd00::1]/x"])
def test_private_address_is_a_destination(url: str) -> None:
    """A private address is accepted, because most gateways have one."""
    HttpSink(url)


@pytest.mark.parametrize("url", ["http://localhost/x", "http://[::1]:8082/x", "http://h/x?insecure=true"])
def test_plain_http_to_other_machines_needs_an_option(url: str) -> None:
    """Plain HTTP is accepted to this machine only, unless an option allows it."""
    HttpSink.from_url(url)


def test_token_is_given_once_and_fits_a_header() -> None:
    """A token from two sources, or with a line break, is refused."""
    with pytest.raises(ValueError, match="token, token_file"):
        HttpSink("https://host/api/events", token="a", token_file="b")
    with pytest.raises(ValueError, match="no HTTP header can"):
        HttpSink("https://host/api/events", token="a\r\nX: y")
