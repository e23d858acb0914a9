"""`noetl-events dead list` and `show`, run as a user runs them, on a real server."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

import pytest

from consumers.dead_letters import DeadLetters
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.consume.puller import Puller
from noetl_events.jetstream.declarations import DEAD_LETTERS, ConsumerDeclaration
from noetl_events.jetstream.options import ConnectOptions
from tests.cli.command import run
from tests.cli.letters import MALFORMED, lines, messages_in, publish_dead, three

if TYPE_CHECKING:
    from noetl_events.testing.nats_server import NatsServer

EXECUTION = 478775660589088776


def test_list_is_a_table_without_control_characters(filtered: NatsServer) -> None:
    """The table has number, kind, origin, reason and size, and hostile text in it is escaped."""
    done = run("dead", "list", nats=filtered.url)
    table = " ".join(done.stdout.decode().split())

    assert done.returncode == 0
    assert "malformed noetl.events.x 1 body:" in table
    assert "[red]no[/red]" in table.replace(" ", "")
    assert b"\x1b" not in done.stdout
    assert b"\x07" not in done.stdout


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        pytest.param([], [1, 2, 3], id="none"),
        pytest.param(["--kind", "malformed"], [1], id="a kind"),
        pytest.param(["--kind", "malformed", "--kind", "rejected"], [1, 2, 3], id="two kinds"),
        pytest.param(["--kind", "unheard-of"], [], id="another kind"),
        pytest.param(["--reason", "step"], [3], id="a reason in any case"),
        pytest.param(["--since", "1h"], [1, 2, 3], id="an age"),
        pytest.param(["--until", "1h"], [], id="before an age"),
        pytest.param(["--since", "2020-01-01T00:00:00Z", "--until", "2020-01-02"], [], id="a day"),
        pytest.param(["--execution", "5"], [3], id="an execution"),
        pytest.param(["--execution", str(EXECUTION), "--kind", "rejected"], [2], id="two filters"),
        pytest.param(["--limit", "2"], [1, 2], id="a limit"),
    ],
)
def test_list_filters(filtered: NatsServer, filters: list[str], expected: list[int]) -> None:
    """Each filter selects by its own rule, and several filters by all of them."""
    done = run("dead", "list", "--json", *filters, nats=filtered.url)

    assert done.returncode == 0
    assert [letter["sequence"] for letter in lines(done)] == expected
    assert (b"no dead letters" in done.stderr) == (not expected)
    assert (b"there are more" in done.stderr) == ("--limit" in filters)


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a server with three dead letters that no test changes."""
    from noetl_events.testing.nats_server import NatsServer as Server  # noqa: PLC0415  (otherwise needed only for annotations)

    with Server(store_dir=tmp_path_factory.mktemp("nats")) as started:
        run("stream", "ensure", nats=started.url)
        three(started)
        yield started


def test_list_tolerates_nothing(own_server: NatsServer) -> None:
    """Without the stream, or without dead letters, a line says so."""
    missing = run("dead", "list", nats=own_server.url)
    run("stream", "ensure", nats=own_server.url)
    empty = run("dead", "list", nats=own_server.url)

    assert (missing.returncode, empty.returncode) == (0, 0)
    assert b"stream noetl_events_dead does not exist; run `noetl-events stream ensure`" in missing.stderr
    assert b"no dead letters" in empty.stderr


def test_list_shows_a_message_buried_again_once(own_server: NatsServer) -> None:
    """A message dead-lettered again beyond the duplicate window is two dead letters and one line."""

    async def without_memory() -> None:
        async with Connection(ConnectOptions(servers=own_server.url)) as connection:
            js = await jetstream(connection)
            await js.add_stream(name=DEAD_LETTERS.name, subjects=list(DEAD_LETTERS.subjects), duplicate_window=0.1)
            await js.add_stream(name="noetl_events", subjects=["noetl.events.>"])
            puller = Puller(connection, ConsumerDeclaration(name="burying"))
            await js.publish("noetl.events.x", b"twice")
            [message] = await puller.pull(1)
            while (await js.stream_info(DEAD_LETTERS.name)).state.messages < 2:
                await DeadLetters(connection).publish(message, "malformed", "no")
            await puller.aclose()

    asyncio.run(without_memory())

    assert len(messages_in(own_server, DEAD_LETTERS.name)) == 2
    assert len(lines(run("dead", "list", "--json", nats=own_server.url))) == 1


def test_list_reads_many(own_server: NatsServer) -> None:
    """More dead letters than fit one page are listed completely, in order."""
    server = own_server
    run("stream", "ensure", nats=server.url)
    publish_dead(server, *[(b"%d" % number, "rejected", "no") for number in range(450)])
    run("dead", "purge", "--reason", "no", "--limit", "1", "--yes", nats=server.url)
    shown = lines(run("dead", "list", "--json", "--limit", "1000", nats=server.url))

    assert [letter["sequence"] for letter in shown] == list(range(2, 451))


def test_show_says_everything(filtered: NatsServer) -> None:
    """The command shows origin, reason, headers and payload; as JSON with base64 for binary data; raw to the byte."""
    for_people = run("dead", "show", "2", nats=filtered.url).stdout.decode()
    [letter] = lines(run("dead", "show", "1", "--json", nats=filtered.url))
    raw = run("dead", "show", "1", "--raw", nats=filtered.url).stdout

    assert "header traceparent 00-1-2-01" in " ".join(for_people.split())
    assert '  "step": "fetch_calendar",' in for_people
    assert base64.b64decode(letter["payload_base64"]) == MALFORMED == raw
    assert (letter["kind"], letter["subject"], letter["origin_sequence"]) == ("malformed", "noetl.events.x", "1")
    assert letter["headers"] == {"traceparent": "00-1-2-01"}


def test_show_escapes_a_payload_that_is_no_json(filtered: NatsServer) -> None:
    """A binary payload is escaped, so it cannot control the terminal."""
    done = run("dead", "show", "1", nats=filtered.url)

    assert b'\\xff\\x1b[31m{"execution_id": 1}' in done.stdout
    assert b"\x1b" not in done.stdout


@pytest.mark.parametrize("command", [["show", "99"], ["edit", "99"]], ids=" ".join)
def test_letter_that_is_not_there(filtered: NatsServer, command: list[str]) -> None:
    """For a missing dead letter the exit code is 1, and a line names the command that lists them."""
    done = run("dead", *command, nats=filtered.url)

    assert done.returncode == 1
    assert b"99 does not exist, or no longer; list dead letters with `noetl-events dead list`" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        pytest.param(["purge", "--yes"], b"--all", id="purge of nothing in particular"),
        pytest.param(["purge", "--limit", "3", "--yes"], b"--all", id="purge of any three"),
        pytest.param(["purge", "--all"], b"--yes", id="purge without a terminal"),
        pytest.param(["retry"], b"--all", id="retry of nothing"),
        pytest.param(["retry", "1", "--all"], b"sequences", id="retry of one and all"),
        pytest.param(["retry", "1", "--kind", "fatal"], b"filters go with --all", id="number and filter"),
        pytest.param(["list", "--since", "yesterday"], b"--since: 'yesterday'", id="no time"),
        pytest.param(["list", "--limit", "0"], b"Must be >= 1", id="no limit"),
        pytest.param(["show", "0"], b"Must be >= 1", id="no number"),
    ],
)
def test_wrong_input_is_named(filtered: NatsServer, arguments: list[str], reason: bytes) -> None:
    """Wrong input ends with exit code 2 and a line that names the input, and nothing is changed."""
    done = run("dead", *arguments, nats=filtered.url)

    assert done.returncode == 2
    assert reason in done.stderr
    assert len(messages_in(filtered, DEAD_LETTERS.name)) == 3


@pytest.mark.parametrize("command", ["list", "show", "retry", "edit", "purge"])
def test_help_has_an_example(command: str) -> None:
    """The help of every command has an example."""
    done = run("dead", command, "--help")

    assert done.returncode == 0
    assert f"Example: noetl-events dead {command}" in " ".join(done.stdout.decode().split())
