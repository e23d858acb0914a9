"""Hostile text in an event is safe wherever people read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from consumers.cli.dead import dead
from consumers.cli.tail import tail
from noetl_events import encode
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.declarations import DEAD_LETTERS
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.testing import make_event

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration

HOSTILE = "a\x1b[2J\x1b]0;t\x07\r\nforged line\u202e\x9b31m[bold red]"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(encode(make_event(1, event_type=HOSTILE, step=HOSTILE, status=HOSTILE)), id="control characters"),
        pytest.param(encode(make_event(1, event_type="n" * 500_000, step="s" * 400_000)), id="a megabyte of a name"),
        pytest.param(b'{"event_type":"\x1b[2J"}', id="no JSON"),
        pytest.param(b'{"execution_id":"\\u001b[2J' + b"9" * 500_000 + b'"}', id="no event"),
    ],
)
async def test_tail_is_safe(
    connection: Connection,
    stream: StreamDeclaration,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    body: bytes,
) -> None:
    """A hostile event is a short line without control characters."""
    monkeypatch.setenv("NOETL_EVENT_STREAM", stream.name)
    await (await jetstream(connection)).publish(f"{stream.name}.x", body)
    await tail(from_start=True, until_end=True, nats=connection.options.servers)
    out, _ = capfd.readouterr()

    assert out.count("\n") == 1
    assert out.rstrip("\n").isprintable()
    assert len(out) < 2_000


async def test_dead_letters_are_safe(connection: Connection, capfd: pytest.CaptureFixture[str]) -> None:
    """A hostile dead letter is safe in the list and in full."""
    await ensure_stream(connection, DEAD_LETTERS)
    said = {"Noetl-Reason": "\x1b[2J\u202e", "Noetl-Subject": "\x9b31m", "Noetl-Header-x": "\x1b]0;t\x07"}
    body = f'{{"x": "{HOSTILE}"}}'.encode()
    ack = await (await jetstream(connection)).publish(f"{DEAD_LETTERS.subjects[0][:-1]}rejected", body, headers=said)
    list_, show = (dead[name].default_command for name in ("list", "show"))
    assert list_ is not None
    assert show is not None
    for json in (False, True):
        await list_(nats=connection.options.servers, json=json)
        await show(ack.seq, nats=connection.options.servers, json=json)
    out, _ = capfd.readouterr()

    assert all(line.isprintable() for line in out.split("\n"))
    assert "forged" in out
