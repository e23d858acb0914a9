"""Events over HTTP: stored events, refusals, and the answers to the client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from starlette.requests import Request

from consumers.gateway.auth import TokenFile
from consumers.gateway.errors import ApiError
from consumers.gateway.ingest import Ingest
from consumers.gateway.requests import RequestLimiter
from noetl_events import EventsRejected
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.sinks.memory import MemorySink
from noetl_events.testing import FaultySink, eventually
from tests.gateway.gateway_process import Web, body_of, serving, stored_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from noetl_events.testing.nats_server import NatsServer


@pytest.fixture
async def web(connection: Connection, stream: StreamDeclaration) -> AsyncIterator[Web]:
    """Return a gateway on an empty stream."""
    async with serving(connection, stream) as opened:
        yield opened


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="the crate's own form"),
        pytest.param({"event_id": "7", "execution_id": "478775660589088776"}, id="ids as strings"),
        pytest.param({"event_type": "-", "name": "command.completed"}, id="name for event_type"),
        pytest.param({"step": "-", "node_name": "fetch_calendar"}, id="node_name for step"),
        pytest.param({"context": "-", "payload": {"result": {"items": 7}}}, id="payload for context"),
        pytest.param({"created_at": "2026-05-31T03:14:15.123456"}, id="a time without a zone"),
    ],
)
async def test_one_event(web: Web, connection: Connection, stream: StreamDeclaration, changes: dict[str, Any]) -> None:
    """An event in any accepted form is stored in the canonical form, and answered with its id."""
    answer = await web.post("/api/events", body_of(7, **changes))

    assert answer == (200, {"status": "ok", "event_id": 7})
    assert await stored_in(connection, stream) == [body_of(7)]


async def test_id_is_given(web: Web, connection: Connection, stream: StreamDeclaration) -> None:
    """An event without an id is stored with the id in the answer."""
    status, answer = await web.post("/api/events", body_of(None))

    assert status == 200
    assert [body["event_id"] for body in await stored_in(connection, stream)] == [answer["event_id"]]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        pytest.param(body_of(created_at="-"), "created_at", id="no time"),
        pytest.param(body_of(execution_id="x"), "execution_id", id="no number"),
        pytest.param(body_of(event_id=2**63), "event_id", id="too large a number"),
        pytest.param(b"[]", "body", id="no object"),
        pytest.param(b"", "body", id="nothing"),
        pytest.param(b"{\xff}", "body", id="no text"),
        pytest.param(b"[" * 100_000, "body", id="nested for ever"),
    ],
)
async def test_malformed(web: Web, connection: Connection, stream: StreamDeclaration, body: Any, field: str) -> None:
    """A body that is no event is refused with the name of the field, and nothing is stored."""
    status, answer = await web.post("/api/events", body)

    assert (status, answer["code"], answer["errors"][0]["field"]) == (422, "malformed", field)
    assert await stored_in(connection, stream) == []


async def test_batch(web: Web, connection: Connection, stream: StreamDeclaration) -> None:
    """The events of a batch are stored in order, with the fields that the batch gives for all of them."""
    events = [body_of(n, execution_id="-", worker_id="-") for n in (3, 1, 2)]

    status, answer = await web.post("/api/events/batch", {"execution_id": "5", "worker_id": "w", "events": events})

    assert (status, answer["event_ids"], answer["duplicate"]) == (202, [3, 1, 2], False)
    stored = await stored_in(connection, stream)
    assert [(body["event_id"], body["execution_id"], body["worker_id"]) for body in stored] == [
        (n, 5, "w") for n in (3, 1, 2)
    ]


async def test_bad_batch(web: Web, connection: Connection, stream: StreamDeclaration) -> None:
    """A bad event refuses its whole batch, with its index and field."""
    events = [body_of(1), body_of(2, status=5), body_of(3, created_at="yesterday")]

    status, answer = await web.post("/api/events/batch", {"execution_id": 5, "events": events})

    assert status == 422
    assert [(fault["index"], fault["field"]) for fault in answer["errors"]] == [(1, "status"), (2, "created_at")]
    assert await stored_in(connection, stream) == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param({"events": []}, 422, id="no event"),
        pytest.param({}, 422, id="no events"),
        pytest.param({"events": [7]}, 422, id="no object"),
        pytest.param({"events": [body_of(n) for n in range(1, 258)]}, 413, id="257 events"),
        pytest.param({"events": [body_of(1)], "padding": "x" * 5_000_000}, 413, id="5 MB"),
    ],
)
async def test_batch_limits(web: Web, body: Any, status: int) -> None:
    """A batch has 1 to 256 events in at most 2 MiB."""
    assert (await web.post("/api/events/batch", body))[0] == status


async def test_event_too_large_for_nats(web: Web, connection: Connection, stream: StreamDeclaration) -> None:
    """An event above the server's limit is reported, and its neighbours are stored."""
    events = [body_of(1), body_of(2, context="x" * 1_100_000), body_of(3)]

    status, answer = await web.post("/api/events/batch", {"events": events})

    assert status == 422
    assert [(fault["index"], fault["event_id"]) for fault in answer["errors"]] == [(1, 2)]
    assert [body["event_id"] for body in await stored_in(connection, stream)] == [1, 3]


async def test_same_key_again(web: Web, connection: Connection, stream: StreamDeclaration) -> None:
    """A batch posted again with its key keeps its ids, and is stored once."""
    batch = {"events": [body_of(None), body_of(None)]}

    first = await web.post("/api/events/batch", batch, idempotency_key="k")
    again = await web.post("/api/events/batch", batch, idempotency_key="k")
    other = await web.post("/api/events/batch", {"events": [body_of(9)]}, idempotency_key="k")

    assert (first[0], first[1]["duplicate"]) == (202, False)
    assert again == (202, first[1] | {"duplicate": True})
    assert (other[0], other[1]["code"]) == (422, "key_reused")
    assert len(await stored_in(connection, stream)) == 2


async def test_token(connection: Connection, stream: StreamDeclaration, tmp_path: Path) -> None:
    """Without the token every request is refused; a token written into the file is valid at once."""
    file = tmp_path / "token"
    file.write_text("sesame\n")
    async with serving(connection, stream, rule=TokenFile(file)) as web:
        assert (await web.post("/api/events", body_of()))[0] == 401
        assert (await web.post("/api/events", body_of(), authorization="Bearer wrong"))[0] == 401
        assert (await web.post("/api/events", body_of(), authorization="Bearer sesame"))[0] == 200
        file.write_text("another-one\n")
        assert (await web.post("/api/events", body_of(), authorization="Bearer sesame"))[0] == 401
        assert (await web.post("/api/events", body_of(), authorization="Bearer another-one"))[0] == 200
        file.unlink()
        assert (await web.post("/api/events", body_of(), authorization="Bearer another-one"))[0] == 200


@pytest.mark.parametrize("headers", [{"origin": "https://elsewhere.example"}, {"host": "elsewhere.example"}])
async def test_page_of_another_site(web: Web, headers: dict[str, str]) -> None:
    """Without a token a page of another site may not use the gateway of this machine."""
    assert (await web.post("/api/events", body_of(), **headers))[0] == 403


async def test_server_away(own_server: NatsServer) -> None:
    """While NATS is unavailable no post succeeds; later the same post does."""
    declared = StreamDeclaration()
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        await ensure_stream(connection, declared)
        async with serving(connection, declared) as web:
            assert (await web.post("/api/events", body_of(1)))[0] == 200
            own_server.kill()
            async with web.session.post(f"{web.url}/api/events", json=body_of(2)) as response:
                assert (response.status, response.headers["retry-after"]) == (503, "2")
            own_server.start()

            async def is_taken() -> bool:
                return bool((await web.post("/api/events", body_of(2)))[0] == 200)

            await eventually(is_taken)
            assert [body["event_id"] for body in await stored_in(connection, declared)] == [1, 2]


async def test_busy(connection: Connection, stream: StreamDeclaration) -> None:
    """A post beyond the limit in flight is refused at once with a Retry-After."""
    async with serving(connection, stream) as web:
        web.gateway.limiter._max_requests = 0
        async with web.session.post(f"{web.url}/api/events", json=body_of()) as response:
            assert (response.status, response.headers["retry-after"]) == (429, "1")


async def test_endless_head(web: Web) -> None:
    """A head without an end is refused, and not stored."""
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(b"GET / HTTP/1.1\r\n" + b"".join(b"x-%d: %b\r\n" % (n, b"y" * 1_000) for n in range(80)))

    assert b" 400 " in await asyncio.wait_for(reader.readline(), 180)
    writer.close()


async def test_conflict_is_told_from_what_is_wrong_with_events() -> None:
    """The answer is 409 if all rejected events are conflicts at the destination, otherwise 422."""

    async def post(rejection: EventsRejected) -> ApiError:
        body = msgspec.json.encode({"events": [body_of(1), body_of(2)]})

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        scope = {"type": "http", "method": "POST", "headers": [(b"content-length", b"%d" % len(body))]}
        with pytest.raises(ApiError) as refused:
            await Ingest(FaultySink(MemorySink(), [rejection]), RequestLimiter()).many(Request(scope, receive))
        return refused.value

    conflict = await post(EventsRejected({1: "another event has it"}, conflicts=[1]))
    mixed = await post(EventsRejected({0: "no", 1: "another event has it"}, conflicts=[1]))

    assert (conflict.status, conflict.code, [fault.index for fault in conflict.errors]) == (409, "conflict", [1])
    assert (mixed.status, mixed.code) == (422, "malformed")
