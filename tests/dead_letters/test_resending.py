"""Resending a dead letter: no event is lost or stored twice, whatever happens in between."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from consumers.dead_letters.resend import Resending
from consumers.dead_letters.store import DeadLetterReader
from noetl_events import decode, encode
from noetl_events.ids import derived_id
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.storage import store
from noetl_events.sinks.memory import MemorySink
from noetl_events.testing import eventually, make_event
from tests.dead_letters.letters import events_in, letters_in, publish_dead, reader_of, resending
from tests.projector.bench import Bench, ids

if TYPE_CHECKING:
    from consumers.dead_letters.letter import Letter


class PowerCut(Exception):
    """The simulated end of the process."""


class DiesBeforeRemoving(DeadLetterReader):
    """A dead-letter store with a process that ends just before a dead letter is removed."""

    async def remove(self, sequence: int) -> bool:
        """End the process."""
        raise PowerCut


async def test_retried_goes_back_with_its_bytes_and_headers_and_the_letter_goes(bench: Bench) -> None:
    """The original bytes and headers are on the original subject again, under a new message id."""
    body = encode(make_event(7)) + b"  "
    headers = {"Nats-Msg-Id": "7", "traceparent": "00-1-2-01", "Nats-Expected-Last-Sequence": "0"}
    [letter] = await publish_dead(bench, body, headers=headers)
    outcome = await resending(bench).retry(letter.sequence)
    [_, again] = await events_in(bench)

    assert outcome.outcome == "retried"
    assert (again.subject, again.data) == (f"{bench.stream.name}.x", body)
    assert again.headers["traceparent"] == "00-1-2-01"
    assert again.headers["Nats-Msg-Id"].startswith("retry:")
    assert "Nats-Expected-Last-Sequence" not in again.headers
    assert await letters_in(bench) == []


async def test_retried_within_the_duplicate_window_is_delivered_again(bench: Bench) -> None:
    """A resent message is delivered although the stream still knows the original message id."""
    [letter] = await publish_dead(bench, encode(make_event(7)), headers={"Nats-Msg-Id": "7"})
    sink = MemorySink()
    async with bench.projecting(sink):
        await resending(bench).retry(letter.sequence)
        await eventually(lambda: ids(sink) == [7])


async def test_death_between_publish_and_removal_stores_nothing_twice(bench: Bench) -> None:
    """The dead letter is still there, and resending it leaves one message and no dead letter."""
    [letter] = await publish_dead(bench, encode(make_event(7)))
    dying = Resending(bench.connection, DiesBeforeRemoving(bench.connection, stream=bench.dead.name))
    with suppress(PowerCut):
        await dying.retry(letter.sequence)
    assert await letters_in(bench) == [letter]
    outcome = await resending(bench).retry(letter.sequence)

    assert outcome.outcome == "retried"
    assert len(await events_in(bench)) == 2
    assert await letters_in(bench) == []


async def test_publish_that_is_not_acknowledged_keeps_the_letter(bench: Bench) -> None:
    """If no stream takes the subject the dead letter stays, and the reason names the remedy."""
    [letter] = await publish_dead(bench, encode(make_event(7)))
    js = await jetstream(bench.connection)
    config = (await js.stream_info(bench.stream.name)).config
    await js.update_stream(config.evolve(subjects=[f"{bench.stream.name}.other"]))
    outcome = await resending(bench).retry(letter.sequence)

    assert outcome.outcome == "failed"
    assert f"no stream takes {letter.subject}; run `noetl-events stream ensure`" in outcome.reason
    assert await letters_in(bench) == [letter]


async def test_retried_twice_says_so(bench: Bench) -> None:
    """Resending a removed dead letter is no failure, and publishes nothing."""
    [letter] = await publish_dead(bench, encode(make_event(7)))
    outcomes = [await resending(bench).retry(letter.sequence) for _ in range(2)]

    assert [each.outcome for each in outcomes] == ["retried", "already gone"]
    assert len(await events_in(bench)) == 2


async def test_each_consumer_gets_its_own_letter_back(bench: Bench) -> None:
    """A message dead-lettered by two consumers is redelivered once to each; for a deleted consumer, to all."""
    [letter] = await publish_dead(bench, encode(make_event(7)))
    other = structs.replace(bench.consumer, name="other")
    bench.consumer = other
    js = await jetstream(bench.connection)
    message = await js.get_msg(bench.dead.name, letter.sequence, direct=True)
    headers = {name: value for name, value in (message.headers or {}).items() if name.startswith("Noetl-")}
    await store(bench.connection, f"{bench.dead.name}.rejected", letter.body, headers | {"Noetl-Consumer": "other"})
    outcomes = [await resending(bench).retry(each.sequence) for each in await letters_in(bench)]

    assert [each.outcome for each in outcomes] == ["retried", "retried"]
    assert [(each.headers or {}).get("Noetl-For") for each in await events_in(bench)] == [None, "projector", None]


async def test_letter_sent_again_is_skipped_by_other_consumers(bench: Bench) -> None:
    """A resent message for another consumer is acknowledged, counted and not stored."""
    [letter] = await publish_dead(bench, encode(make_event(7)))
    sink, other = MemorySink(), MemorySink()
    async with bench.projecting(other, name="other") as second:
        await eventually(lambda: ids(other) == [7])
        async with bench.projecting(sink) as first:
            await Resending(bench.connection, reader_of(bench), new_id=True).retry(letter.sequence)
            await eventually(lambda: first.progress.stored == 1 and second.progress.skipped == 1)

    assert len(ids(sink)) == 1
    assert (ids(other), second.progress.stored) == ([7], 1)
    assert ids(sink) != [7]


async def test_new_id_follows_from_the_first_place(bench: Bench) -> None:
    """All dead letters of a message have the same new id; another collision gets another id."""
    [letter] = await publish_dead(bench, encode(make_event(7)), kind="conflict")
    refused = await resending(bench).retry(letter.sequence)
    again = structs.replace(letter, sequence=9, consumer="other")
    new_id = letter.new_id(7)
    sent = await Resending(bench.connection, reader_of(bench), new_id=True).retry(letter.sequence)
    [_, message] = await events_in(bench)
    second = structs.replace(letter, origin_sequence="2", headers=dict(message.headers or {}))

    assert (refused.outcome, "--new-id" in refused.reason) == ("failed", True)
    assert (sent.outcome, decode(message.data).event_id) == ("retried", new_id)
    assert structs.replace(decode(message.data), event_id=7) == decode(encode(make_event(7)))
    assert again.new_id(7) == second.new_id(7) == new_id
    assert second.new_id(new_id or 0) not in (None, 7, new_id)


async def test_event_without_id_keeps_the_one_of_its_first_place(bench: Bench) -> None:
    """A second projector that stored the event before the resend keeps one row, not two."""
    sink = MemorySink()
    [letter] = await publish_dead(bench, encode(make_event(None, meta={"é": 1.50})))
    async with bench.projecting(sink, name="second") as projector:
        await resending(bench).retry(letter.sequence)
        await eventually(lambda: (projector.progress.stored, projector.progress.skipped) == (1, 1))
    [first, again] = await events_in(bench)

    assert ids(sink) == [derived_id(int(first.time.timestamp() * 1000), 1)]
    assert structs.replace(decode(again.data), event_id=None) == decode(letter.body)


async def test_malformed_is_sent_as_it_is_and_buried_again(bench: Bench) -> None:
    """A message that is still malformed becomes a new dead letter with the same bytes."""
    [letter] = await publish_dead(bench, b"\xff{not json\x00", kind="malformed")
    async with bench.projecting(MemorySink()):
        await resending(bench).retry(letter.sequence)
        await eventually(lambda: bench.unsettled_is(0))
    [again] = await letters_in(bench)

    assert again.body == b"\xff{not json\x00"
    assert (letter.origin_sequence, again.origin_sequence) == ("1", "2")


async def test_edited_after_a_retry_that_died_is_another_message(bench: Bench) -> None:
    """An edited payload has another message id than the one the stream has."""
    [letter] = await publish_dead(bench, encode(make_event(7)))
    dying = Resending(bench.connection, DiesBeforeRemoving(bench.connection, stream=bench.dead.name))
    with suppress(PowerCut):
        await dying.retry(letter.sequence)
    edited = encode(make_event(7, status="EDITED"))
    await resending(bench).send(letter, edited)

    assert (await events_in(bench))[-1].data == edited


async def test_compressed_letter_goes_back_as_it_came(bench: Bench) -> None:
    """A body that was compressed to fit beside the headers is resent uncompressed."""
    body = b"x" * ((await bench.connection.client()).max_payload - 150)
    [letter] = await publish_dead(bench, body)
    outcome = await resending(bench).retry(letter.sequence)

    assert letter.size < 10_000
    assert letter.body == body
    assert outcome.outcome == "retried"
    assert (await events_in(bench))[-1].data == body


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        pytest.param("", "does not name its subject", id="no subject"),
        pytest.param("$JS.API.STREAM.PURGE.x", "reserved for the server", id="forged"),
        pytest.param("a b", "invalid subject", id="no subject at all"),
    ],
)
async def test_letter_that_cannot_go_anywhere_stays(bench: Bench, subject: str, reason: str) -> None:
    """A dead letter of another writer is refused with a reason before it does harm."""
    await store(
        bench.connection, f"{bench.dead.name}.odd", b"body", {"Noetl-Subject": subject} if subject else {"A": "b"}
    )
    outcome = await resending(bench).retry(1)

    assert outcome.outcome == "failed"
    assert reason in outcome.reason
    assert len(await letters_in(bench)) == 1


async def test_dry_run_changes_nothing(bench: Bench) -> None:
    """A dry run reports the messages, and sends none."""
    letters: list[Letter] = await publish_dead(bench, encode(make_event(7)))
    outcome = await resending(bench).retry(1, dry=True)

    assert outcome.outcome == "would be retried"
    assert len(await events_in(bench)) == 1
    assert await letters_in(bench) == letters
