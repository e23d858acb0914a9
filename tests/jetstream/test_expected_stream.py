"""The acknowledgements that count: not those of other streams, other domains, or subscribers that are no stream."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.client import Home
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.publish.expected_stream import ExpectedStream
from noetl_events.jetstream.publish.message import Outgoing
from noetl_events.jetstream.publish.publisher import Publisher
from noetl_events.jetstream.publish.replies import Reply, ReplyError
from noetl_events.jetstream.streams import ensure_stream, show_stream
from noetl_events.testing.nats_server import NatsServer
from tests.jetstream.scripted_stream import ScriptedStream, error, stores

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from nats.aio.msg import Msg

FOREIGN: Final = [
    pytest.param({"seq": 1}, id="a number"),
    pytest.param(b"OK", id="a word"),
    pytest.param(b"", id="nothing"),
    pytest.param({"ok": True}, id="an object"),
    pytest.param({"stream": "audit", "seq": 1}, id="another stream"),
    pytest.param({"stream": "S", "domain": "hub", "seq": 1}, id="another domain"),
    pytest.param({"stream": "audit", "seq": 3, "batch": "b", "count": 3}, id="a batch of another stream"),
    pytest.param(error(10077) | {"stream": "audit"}, id="another stream is full"),
    pytest.param(error(10205) | {"stream": "audit"}, id="another stream takes no batches"),
    pytest.param({"error": {"code": 503, "err_code": 10077, "description": "full"}}, id="an error of no stream"),
    pytest.param({"type": "ack", "seq": 3, "msgs": 250}, id="a frame that acknowledges"),
    pytest.param({"type": "gap", "last_seq": 1, "seq": 3}, id="a frame that has a gap"),
    pytest.param({"type": "err", "seq": 1, "error": {"code": 400, "err_code": 10071}}, id="a frame that fails"),
]


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("durable", ["stored", "fsync"])
async def test_foreign_answer_neither_stores_nor_blocks(
    connection: Connection, scripted: ScriptedStream, foreign: Any, durable: Any
) -> None:
    """A foreign answer is ignored, for a lone message and for both kinds of batches: the stream's answer counts."""
    publisher = Publisher(connection, stream="S", durable=durable)
    answered: list[Any] = []

    def answers(received: Any) -> Any:
        own = stores_atomic(received) if received.atomic else stores(received)
        answered.append(own)
        return [foreign] if own is None else [foreign, own]

    scripted.answer = answers
    await publisher.publish(scripted.outgoing([1]))
    await publisher.publish(scripted.outgoing([2, 3, 4]))

    assert publisher.counts.stored == 4
    assert len(scripted.received) == 4
    assert (publisher.counts.sent_again, publisher.counts.fell_back) == (0, 0)
    assert publisher.last_sequence == 9
    await publisher.aclose()


def stores_atomic(received: Any) -> dict[str, Any]:
    """Answer the end of an atomic batch as a stream does that stores the batch."""
    return {"stream": "S", "seq": 9, "batch": "b", "count": received.atomic}


@pytest.mark.parametrize(
    ("foreign", "words"),
    [
        pytest.param({"seq": 1}, "answered by a subscriber that is not a stream, which is not stream S", id="listener"),
        pytest.param({"stream": "audit", "seq": 1}, "answered by stream audit, which is not stream S", id="stream"),
        pytest.param(
            {"stream": "S", "domain": "hub", "seq": 1},
            "answered by stream S of domain hub, which is not stream S",
            id="domain",
        ),
    ],
)
@pytest.mark.parametrize("events", [1, 3])
async def test_timeout_says_whose_answer_it_was(
    connection: Connection, scripted: ScriptedStream, foreign: Any, words: str, events: int
) -> None:
    """Where only foreign answers arrive, the call fails and its reason names the stream that answers."""
    publisher = Publisher(connection, stream="S", timeout=0.5)
    scripted.answer = lambda _: foreign
    with pytest.raises(NatsUnavailable, match=words):
        await publisher.publish(scripted.outgoing(range(1, events + 1)))

    assert publisher.counts.stored == 0
    await publisher.aclose()


def expecting(name: str = "") -> ExpectedStream:
    """Return the expectation of a publisher that has not connected yet."""
    return ExpectedStream(Connection(ConnectOptions(servers="nats://127.0.0.1:4222")), name)


async def test_foreign_answer_explains_no_later_silence() -> None:
    """A foreign answer explains the silence of its own call, and no later one once the stream has answered."""
    expected = expecting("S")
    expected.record_server(Home("c", ""))
    expected.record_foreign(Reply(stream="audit", seq=1))
    assert "answered by stream audit" in expected.explain_silence("e.x", 1.0, is_untaken=False)
    assert expected.counts(Reply(stream="S", seq=1))

    assert "audit" not in expected.explain_silence("e.x", 1.0, is_untaken=False)


async def test_stream_that_answers_again_is_not_missing(connection: Connection) -> None:
    """A missing stream is not the reason for a silence after an answer."""
    expected = ExpectedStream(connection, "S")
    expected.record_server((await connection.client()).home)
    await expected.look_up("nowhere.x")
    assert "no stream takes nowhere.x" in expected.explain_silence("nowhere.x", 1.0, is_untaken=True)
    assert expected.counts(Reply(stream="S", seq=1))

    assert expected.problem is None
    assert "no leader for nowhere.x" in expected.explain_silence("nowhere.x", 1.0, is_untaken=True)


async def test_domain_is_kept_within_a_cluster() -> None:
    """A server of the same cluster may have no JetStream and name no domain; another domain is another stream."""
    expected, ours, theirs = expecting(), Reply(stream="noetl_events", seq=1), Reply("", "noetl_events", "hub", 1)
    expected.record_server(Home("c", ""))
    for home in (Home("c", None), Home("c", "")):
        expected.record_server(home)
        assert (expected.counts(ours), expected.counts(theirs)) == (True, False)
    expected.record_server(Home("c", "hub"))

    assert (expected.counts(ours), expected.counts(theirs)) == (False, True)


@asynccontextmanager
async def listener(url: str, subject: str, answer: dict[str, Any]) -> AsyncIterator[None]:
    """Answer messages to *subject* without storing them."""

    async def take(message: Msg) -> None:
        if message.reply:
            await message.respond(json.dumps(answer).encode())

    async with Connection(ConnectOptions(servers=url)) as connection:
        client = await connection.client()
        await client.subscribe(subject, cb=take)
        await client.flush()
        yield


def outgoing(subject: str, *numbers: int) -> list[Outgoing]:
    """Return messages for *subject*."""
    return [Outgoing(subject, b"%d" % number, b"{}", 0) for number in numbers]


async def test_name_is_learned_from_the_api(connection: Connection, stream: StreamDeclaration, nats_url: str) -> None:
    """Without a configured name the API's stream for the subject counts, and no other stream that answers."""
    publisher = Publisher(connection)
    async with listener(nats_url, f"{stream.name}.>", {"stream": "noetl_events_elsewhere", "seq": 77}):
        await publisher.publish(outgoing(f"{stream.name}.x", 1))
        await publisher.publish(outgoing(f"{stream.name}.x", 2, 3))

    assert (publisher.last_sequence, publisher.counts.stored) == (3, 3)
    assert (await show_stream(connection, stream.name)).state.messages == 3
    await publisher.aclose()


async def test_renamed_stream_is_learned_anew(own_server: NatsServer) -> None:
    """A stream created again under another name is found if no name was configured, and refused otherwise."""
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        await ensure_stream(connection, StreamDeclaration(name="first", subjects=("e.>",)))
        learning, configured = Publisher(connection, timeout=60.0), Publisher(connection, stream="first", timeout=5.0)
        for publisher in (learning, configured):
            await publisher.publish(outgoing("e.x", 1, 2))
        await (await jetstream(connection)).delete_stream("first")
        await ensure_stream(connection, StreamDeclaration(name="second", subjects=("e.>",)))
        await learning.publish(outgoing("e.x", 3))
        with pytest.raises(
            NatsUnavailable, match=r"e.x is taken by stream second, not by stream first.*; answered by stream second"
        ):
            await configured.publish(outgoing("e.x", 4))

        assert learning.last_sequence == 1
        for publisher in (learning, configured):
            await publisher.aclose()


# The subjects of the API are missing here, because this account may not ask.
_MAY_PUBLISH: Final = """
accounts { A { jetstream: enabled, users: [
  { user: owner, password: x }
  { user: worker, password: x, permissions: { publish: ["e.>"], subscribe: ["_INBOX.>"] } }
] } }
"""


@pytest.mark.parametrize("name", [pytest.param("custom", id="learned"), pytest.param("noetl_events", id="as guessed")])
async def test_first_acknowledgement_teaches_where_nothing_may_be_asked(tmp_path: Path, name: str) -> None:
    """An account without permissions for the API trusts the first PubAck; later ones of another stream are foreign."""
    with NatsServer(store_dir=tmp_path, config=_MAY_PUBLISH) as server:
        owner_url, worker_url = (server.url.replace("//", f"//{who}:x@") for who in ("owner", "worker"))
        async with (
            Connection(ConnectOptions(servers=owner_url)) as owner,
            Connection(ConnectOptions(servers=worker_url)) as worker,
        ):
            await ensure_stream(owner, StreamDeclaration(name=name, subjects=("e.>",)))
            publisher = Publisher(worker, timeout=5.0)
            await publisher.publish(outgoing("e.x", 1, 2, 3))
            await (await jetstream(owner)).delete_stream(name)
            async with listener(owner_url, "e.>", {"stream": "other", "seq": 9}):
                with pytest.raises(NatsUnavailable, match=f"answered by stream other, which is not stream {name}"):
                    await publisher.publish(outgoing("e.x", 4))

        assert publisher.counts.stored == 3
        await publisher.aclose()
        assert server.log.count("Violation") <= 1


# The account may ask for the name, and for nothing more.
_MAY_ASK_FOR_NAMES: Final = _MAY_PUBLISH.replace('["e.>"]', '["e.>", "$JS.API.STREAM.NAMES"]')


async def test_name_from_the_api_is_enough(tmp_path: Path) -> None:
    """An account that may only look up the stream's name trusts that name, and no earlier answer of another stream."""
    with NatsServer(store_dir=tmp_path, config=_MAY_ASK_FOR_NAMES) as server:
        owner_url, worker_url = (server.url.replace("//", f"//{who}:x@") for who in ("owner", "worker"))
        async with (
            Connection(ConnectOptions(servers=owner_url)) as owner,
            Connection(ConnectOptions(servers=worker_url)) as worker,
        ):
            await ensure_stream(owner, StreamDeclaration(name="custom", subjects=("e.>",)))
            expected, other = ExpectedStream(worker), Reply(stream="other", seq=9)
            expected.record_server((await worker.client()).home)
            await expected.look_up("e.x", other)
            assert not expected.counts(other)
            assert expected.counts(Reply(stream="custom", seq=1))
            publisher = Publisher(worker, timeout=60.0)
            async with listener(owner_url, "e.>", {"stream": "other", "seq": 9}):
                await publisher.publish(outgoing("e.x", 1))
                await publisher.publish(outgoing("e.x", 2, 3))

            assert (await show_stream(owner, "custom")).state.messages == 3
        assert (publisher.counts.stored, publisher.last_sequence) == (3, 3)
        await publisher.aclose()


async def test_domain_is_learned_from_the_stream_that_the_api_names(tmp_path: Path) -> None:
    """Behind an API prefix the domain is read from the PubAck of the stream itself, and from no other answer."""
    with NatsServer(store_dir=tmp_path, config=_MAY_ASK_FOR_NAMES) as server:
        owner_url, worker_url = (server.url.replace("//", f"//{who}:x@") for who in ("owner", "worker"))
        async with (
            Connection(ConnectOptions(servers=owner_url)) as owner,
            Connection(ConnectOptions(servers=worker_url, api_prefix="$JS.API")) as worker,
        ):
            await ensure_stream(owner, StreamDeclaration(name="custom", subjects=("e.>",)))
            expected = ExpectedStream(worker)
            expected.record_server((await worker.client()).home)
            ours, other = Reply(stream="custom", domain="hub", seq=1), Reply(stream="other", domain="hub", seq=9)
            for reply in (other, Reply(stream="custom", error=ReplyError(503, 10077, "full"))):
                await expected.look_up("e.x", reply)
                assert not expected.counts(reply)
            await expected.look_up("e.x", ours)

            assert (expected.counts(ours), expected.counts(other)) == (True, False)
