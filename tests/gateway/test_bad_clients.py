"""Malicious or broken clients: each gets its answer, and delays no other client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from consumers.gateway.auth import TokenFile
from tests.gateway.gateway_process import Web, body_of, serving, stored_in

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration

HEAD = b"POST /api/events HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer sesame\r\n"
LARGE = 5 * 1024 * 1024


async def answer(web: Web, request: bytes, *, half_closed: bool = False) -> bytes:
    """Return the first line of the answer to *request*, after which nothing more is sent; b"" without an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(request)
    if half_closed:
        writer.write_eof()
    async with asyncio.timeout(180):
        line = await reader.readline()
    writer.close()
    return line


async def test_each_is_answered_while_others_go_on(
    connection: Connection, stream: StreamDeclaration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong token, a 5 MB body, a slow body, a slow head and a half-closed client delay none of a hundred posts."""
    token = tmp_path / "token"
    token.write_text("sesame\n")
    monkeypatch.setattr("consumers.web_server.REQUEST_DEADLINE", 6.0)
    async with serving(connection, stream, rule=TokenFile(token)) as web:
        web.gateway.limiter._body_deadline = 3.0
        bad = asyncio.gather(
            answer(web, HEAD.replace(b"sesame", b"Sesame") + b"content-length: 2\r\n\r\n{}"),
            answer(web, HEAD + b"content-length: %d\r\n\r\n" % LARGE + bytes(LARGE)),
            answer(web, HEAD + b"content-length: 100\r\n\r\n{"),
            answer(web, HEAD[:30]),
            answer(web, HEAD + b"content-length: 2\r\n\r\n{}", half_closed=True),
        )
        good = [await web.post("/api/events", body_of(n), authorization="Bearer sesame") for n in range(1, 101)]

        assert [line[9:12] for line in await bad] == [b"401", b"413", b"408", b"", b"422"]
        assert {status for status, _ in good} == {200}
        assert len(await stored_in(connection, stream)) == 100


async def test_heartbeat_moves_nobody(connection: Connection, stream: StreamDeclaration) -> None:
    """A heartbeat in a quiet stream has no id, so a client that resumes after it keeps its position."""
    async with serving(connection, stream) as web:
        web.gateway.event_stream._heartbeat = 0.05
        async with web.session.get(f"{web.url}/api/events/stream") as response:
            beats = [await response.content.readuntil(b"\n\n") for _ in range(3)]

    assert all(beat.startswith(b":") and b"id" not in beat for beat in beats[1:])


async def test_page_may_load_nothing(connection: Connection, stream: StreamDeclaration) -> None:
    """The page's policy allows its own script and its own gateway, and nothing else."""
    async with serving(connection, stream) as web, web.session.get(web.url) as response:
        policy, page = response.headers["content-security-policy"], await response.text()

    nonce = policy.partition("'nonce-")[2].partition("'")[0]
    assert policy.startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert page.count(f'nonce="{nonce}"') == page.count("<script") + page.count("<style")
    assert "http://" not in page.replace("http://www.w3.org", "")
