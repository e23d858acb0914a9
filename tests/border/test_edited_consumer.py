"""A durable consumer and single manual edits: noticed, reported, respected, and followed by redelivery."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from noetl_events.jetstream.consumer_config import config_of
from noetl_events.jetstream.declarations import ConsumerDeclaration
from noetl_events.jetstream.errors import ConsumerDrift
from noetl_events.sink import SinkUnavailable
from noetl_events.sinks.memory import MemorySink
from tests.border.lab import LOOK, Case, Lab, durable_of, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from noetl_events import ExecutorEvent

PATIENCE = 180.0


@pytest.fixture
async def case(lab: Lab) -> AsyncIterator[Case]:
    """Return a running projector that has stored ten events."""
    made = Case(lab, await lab.stream())
    async with made.running():
        await made.publish(10)
        assert await until(lambda: made.is_stored and made.is_ready, PATIENCE), made.reason
        yield made


async def edit(case: Case, **changes: Any) -> dict[str, Any]:
    """Edit the consumer of *case* by hand, and return its former configuration."""
    original = await case.lab.consumer_config(case.stream.name)
    assert not await case.lab.make_consumer(case.stream.name, original | changes, action="update")
    return original


async def put_back(case: Case, original: dict[str, Any]) -> None:
    """Undo an edit."""
    assert not await case.lab.make_consumer(case.stream.name, original, action="update")


async def is_whole(case: Case) -> bool:
    """Wait until every event is stored and the projector ready."""
    return await until(lambda: case.is_stored and case.is_ready, PATIENCE)


async def store_ten(case: Case) -> None:
    """Publish ten events, and wait until they are stored."""
    await case.publish(10)
    assert await is_whole(case), case.reason


async def publish_past(case: Case) -> dict[str, Any]:
    """Publish ten events that an edited filter leaves out, and return the former configuration."""
    original = await edit(case, filter_subject=f"{case.stream.name}.none")
    await case.publish(10)
    return original


async def test_noticed_without_a_message(case: Case) -> None:
    """A filter is noticed before it leaves a message out: not ready, with the field's name, until it is removed."""
    original = await edit(case, filter_subject=f"{case.stream.name}.a")
    assert await until(lambda: "filter_subject" in case.reason, 4 * LOOK + PATIENCE)
    assert not case.is_ready
    await put_back(case, original)

    assert await is_whole(case), case.reason


async def test_put_back_before_it_is_noticed(case: Case) -> None:
    """A filter that was added and removed unnoticed shows only in the delivery numbers; its messages are delivered."""
    original = await edit(case, filter_subject=f"{case.stream.name}.a")
    with capture_logs() as logged:
        await case.publish(10)
        await put_back(case, original)
        await case.publish(2)
        assert await is_whole(case), case.reason
    assert [line["event"] for line in logged if line["event"].startswith("consumer.")]


async def test_put_back_after_the_last_message(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages that such a filter has skipped are delivered even if no further message ever shows the gap."""
    # The monitor checks rarely enough not to notice the edit itself.
    monkeypatch.setattr("tests.border.lab.LOOK", 4.0)
    case = Case(lab, await lab.stream())
    async with case.running():
        await store_ten(case)
        original = await publish_past(case)
        before = lab.requests[case.stream.name]
        assert await until(lambda: lab.requests[case.stream.name] > before + 1, PATIENCE)
        await put_back(case, original)

        assert await is_whole(case), case.reason


async def test_put_back_while_no_projector_runs(lab: Lab) -> None:
    """The next projector delivers messages that a filter has skipped before its start."""
    case = Case(lab, await lab.stream())
    async with case.running():
        await store_ten(case)
    original = await publish_past(case)
    client = await lab.connection.client()
    pull = lab.connection.api(f"CONSUMER.MSG.NEXT.{case.stream.name}.{case.durable}")
    # The server skips messages only when it looks for one to deliver.
    for _ in range(2):
        body = json.dumps({"batch": 1, "expires": 300_000_000}).encode()
        assert ((await client.request(pull, body, timeout=60)).headers or {}).get("Status") == "408"
    await put_back(case, original)
    async with case.running():
        assert await is_whole(case), case.reason


class _Closed(MemorySink):
    """A destination that is unavailable until `is_open`."""

    is_open = False

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Store *events*, if the destination is available."""
        if not self.is_open:
            raise SinkUnavailable("closed")
        await super().emit_batch(events)


@pytest.mark.parametrize("partitions", [0, 1])
async def test_stopped_while_it_is_edited(lab: Lab, partitions: int) -> None:
    """A projector that stops stores no message received past those that a filter has left out: the order stays."""
    case = Case(lab, await lab.stream(partitions=partitions))
    case.sink = sink = _Closed()
    name, durable = case.stream.name, case.durable + "_0" * partitions
    async with case.running():
        await case.publish(10)
        assert await until(lambda: "closed" in case.reason, PATIENCE), case.reason
        original = (await lab.api(f"CONSUMER.INFO.{name}.{durable}"))["config"]
        filters = {"filter_subjects": [f"{name}.0.a.>" if partitions else f"{name}.a"]}
        body = {"stream_name": name, "config": original | filters, "action": "update"}
        assert "error" not in await lab.api(f"CONSUMER.CREATE.{name}.{durable}", body)
        await case.publish(10)
        assert await until(lambda: case.in_flight == 15 and case.has_seen_edit, PATIENCE), case.in_flight
        sink.is_open = True
        assert await until(lambda: "filter_subject" in case.reason, PATIENCE), case.reason
    assert [event.event_id for event in sink.events] == list(range(1, 11))[: len(sink.events)]
    body = {"stream_name": name, "config": original, "action": "update"}
    assert "error" not in await lab.api(f"CONSUMER.CREATE.{name}.{durable}", body)
    async with case.running():
        assert await is_whole(case), case.reason
    assert [event.event_id for event in sink.events] == list(range(1, 21))


async def test_moved_by_hand(case: Case) -> None:
    """A position moved forward is moved back, and the skipped messages are delivered."""
    await case.lab.api(f"CONSUMER.RESET.{case.stream.name}.{case.durable}", {"seq": 15})
    await case.publish(10)

    assert await is_whole(case), case.reason


async def test_message_without_its_body(case: Case) -> None:
    """A message delivered as headers only is not malformed: it is left alone, and redelivered completely."""
    original = await edit(case, headers_only=True)
    await case.publish(5)
    assert await until(lambda: "headers_only" in case.reason, PATIENCE)
    await put_back(case, original)

    assert await is_whole(case), case.reason
    assert case.buried == 0


async def test_limits_are_kept_to(lab: Lab) -> None:
    """Pull requests stay within a consumer's limits; a limit set meanwhile refuses those in flight."""
    case = Case(lab, await lab.stream())
    declared = ConsumerDeclaration(name=case.durable, stream=case.stream.name)
    await lab.make_consumer(case.stream.name, config_of(declared) | {"max_batch": 3, "max_bytes": 500})
    async with case.running():
        await case.publish(40)
        assert await is_whole(case), case.reason
        await edit(case, max_batch=2, max_expires=200_000_000)
        await case.publish(40)
        assert await is_whole(case), case.reason
        await case.publish(40)
        assert await is_whole(case), case.reason
        assert case.refused <= 2


async def test_restarted_while_it_is_edited(lab: Lab) -> None:
    """A partition with an edited filter is reset at once: its skipped messages are delivered, also after a restart."""
    case = Case(lab, await lab.stream(partitions=1))
    name, lane = case.stream.name, f"{durable_of(case.stream.name)}_0"
    async with case.running():
        await case.publish(10)
        assert await is_whole(case), case.reason
        original = (await lab.api(f"CONSUMER.INFO.{name}.{lane}"))["config"]
        changes = {"filter_subjects": [f"{name}.0.a.>"]}
        body = {"stream_name": name, "config": original | changes, "action": "update"}
        assert "error" not in await lab.api(f"CONSUMER.CREATE.{name}.{lane}", body)
        await case.publish(10)
        assert await until(lambda: "filter_subjects" in case.reason, PATIENCE), case.reason
    body = {"stream_name": name, "config": original, "action": "update"}
    assert "error" not in await lab.api(f"CONSUMER.CREATE.{name}.{lane}", body)
    async with case.running():
        await case.publish(2)
        assert await is_whole(case), case.reason


async def test_no_room_for_a_request(lab: Lab) -> None:
    """If other pull requests take all the room, the projector retries with back-off, logs it, and continues later."""
    case = Case(lab, await lab.stream())
    name = case.stream.name
    declared = ConsumerDeclaration(name=case.durable, stream=name)
    assert not await lab.make_consumer(name, config_of(declared) | {"max_waiting": 1})
    client = await lab.connection.client()
    inbox = await client.subscribe(client.new_inbox())
    request = json.dumps({"batch": 1, "expires": 3_600_000_000_000}).encode()
    await client.publish(lab.connection.api(f"CONSUMER.MSG.NEXT.{name}.{case.durable}"), request, reply=inbox.subject)
    await client.flush()
    async with case.running():
        assert await until(lambda: "Exceeded MaxWaiting" in case.reason, PATIENCE), case.reason
        before = lab.requests[name]
        assert not await until(lambda: case.is_ready, 2.0)
        assert lab.requests[name] - before < 40
        assert case.refused > 1
        await inbox.unsubscribe()
        await case.publish(3)
        assert await is_whole(case), case.reason


@pytest.mark.parametrize(
    ("exclusive", "words"),
    [
        pytest.param(True, "the consumer was created with --standby", id="made with it"),
        pytest.param(False, "the consumer was created without --standby", id="made without it"),
    ],
)
async def test_standby_switched(lab: Lab, *, exclusive: bool, words: str) -> None:
    """A durable made for `--standby` is refused without that option, and the reverse, with these texts."""
    case = Case(lab, await lab.stream(), standby=not exclusive)
    declared = ConsumerDeclaration(name=case.durable, stream=case.stream.name, exclusive=exclusive)
    await lab.make_consumer(case.stream.name, config_of(declared))
    async with case.running():
        assert await until(lambda: case.error is not None, PATIENCE)

    assert isinstance(case.error, ConsumerDrift)
    assert words in str(case.error)


async def test_field_of_the_future(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field unknown to this version is logged with its value, and served."""
    known = frozenset({"durable_name", "metadata"})
    monkeypatch.setattr("noetl_events.jetstream.consumer_config.KNOWN", known)
    with capture_logs() as logged:
        await edit(case, ack_wait=29_000_000_000)
        await case.publish(3)
        assert await is_whole(case), case.reason
        assert await until(lambda: any("fields" in line for line in logged), PATIENCE)
    [told] = [line["fields"] for line in logged if line["event"] == "consumer.adapted_to"]

    assert (
        told["max_waiting"] == "512: this version of noetl-events knows neither the field nor its effect on deliveries"
    )


async def test_paused(case: Case) -> None:
    """A pause is reported with its end; no event is lost, and liveness asks for no restart."""
    pause = {"pause_until": "2100-01-01T00:00:00Z"}
    await case.lab.api(f"CONSUMER.PAUSE.{case.stream.name}.{case.durable}", pause)
    await case.publish(5)
    assert await until(lambda: "paused by an operator" in case.reason, PATIENCE)
    assert (case.is_ready, case.is_alive) == (False, True)
    await case.lab.api(f"CONSUMER.PAUSE.{case.stream.name}.{case.durable}", {})

    assert await is_whole(case), case.reason
