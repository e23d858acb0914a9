"""
A durable consumer with each of its fields edited by hand, before a projector starts and while it runs.

Each edit is served correctly, or refused with the name of its field; no event is lost, the projector is never ready
while events are not stored, and no request or log line is repeated without end.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final

import pytest
import structlog

from noetl_events.jetstream.consumer_config import KNOWN, config_of
from noetl_events.jetstream.declarations import ConsumerDeclaration
from tests.border.edits import Edit, consumer_edits, of_stream
from tests.border.lab import LOOK, Case, Lab, durable_of, gathered, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, MutableMapping, Sequence

AT_ONCE: Final = 32
PATIENCE: Final = 180.0
NOTICED: Final = 4 * LOOK + 2.0
"""The seconds until an edit is noticed, on a busy machine too."""

MOST_REQUESTS: Final = 30.0
MOST_LINES: Final = 8.0
"""The time base: a request waits a second, or a fifth of one if the consumer says so."""

MESSAGES: Final = 40
"""Requests for one message each, where the consumer allows no more."""

_possible: list[Edit] = []


@pytest.fixture
async def edits(lab: Lab) -> list[Edit]:
    """Return the edits a server accepts for a new consumer, alone or with another one."""
    if not _possible:
        stream = (await lab.stream()).name
        await lab.make_consumer(stream, original_of(stream))
        candidates = consumer_edits(await lab.consumer_config(stream), "{stream}")
        _possible.extend([found for edit in candidates if (found := await taken(lab, stream, edit, candidates))])
    return _possible


async def taken(lab: Lab, stream: str, edit: Edit, others: Sequence[Edit]) -> Edit | None:
    """Return *edit*, with another one if the server needs it; None for no change, or if the server refuses."""
    original = original_of(stream)
    if all(original.get(name) == value for name, value in edit.changes.items()):
        return None
    for changes in (edit.changes, *(other.changes | edit.changes for other in others if other.field != edit.field)):
        await lab.delete_consumer(stream)
        if not await lab.make_consumer(stream, original | of_stream(changes, stream)):
            return Edit(edit.field, changes)
    return None


def original_of(stream: str) -> dict[str, Any]:
    """Return the configuration that a projector declares."""
    return config_of(ConsumerDeclaration(name=durable_of(stream), stream=stream))


@pytest.fixture
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """Return the log lines of the block."""
    with structlog.testing.capture_logs() as lines:
        yield lines


class Quiet:
    """A context that asserts a limit on requests and log lines."""

    def __init__(self, case: Case, logged: Sequence[Mapping[str, Any]]) -> None:
        self._case = case
        self._logged = logged
        self._began = 0.0
        self._before = (0, 0)

    def __enter__(self) -> None:
        self._began, self._before = asyncio.get_running_loop().time(), self._counts()

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        seconds = max(asyncio.get_running_loop().time() - self._began, 1.0)
        requests, lines = (now - before for now, before in zip(self._counts(), self._before, strict=True))
        assert failed or requests <= MOST_REQUESTS * seconds + MESSAGES, f"{requests} requests in {seconds:.1f} s"
        assert failed or lines <= MOST_LINES * seconds, f"{lines} log lines in {seconds:.1f} s"

    def _counts(self) -> tuple[int, int]:
        stream = self._case.stream.name
        lines = sum(line.get("consumer") == durable_of(stream) for line in self._logged)
        return self._case.lab.requests[stream], lines


async def edit_before(lab: Lab, edit: Edit, logged: Sequence[Mapping[str, Any]], outcomes: Counter[str]) -> None:
    """Edit a consumer before a projector starts."""
    case = Case(lab, await lab.stream())
    name = case.stream.name
    assert not await lab.make_consumer(name, original_of(name) | of_stream(edit.changes, name)), edit.name
    await case.publish(10)
    async with case.running():
        with Quiet(case, logged):
            await until(lambda: case.is_stored or names(case.reason, edit), PATIENCE)
            await case.publish(10)
            await until(lambda: case.is_stored or names(case.reason, edit), PATIENCE)
            outcomes[outcome(case, edit)] += 1


async def edit_while_running(
    lab: Lab,
    edit: Edit,
    logged: Sequence[Mapping[str, Any]],
    outcomes: Counter[str],
    *,
    wait: float | None = None,
) -> None:
    """Edit a consumer while a projector reads it; undo that once it is noticed, or after *wait* seconds."""
    case = Case(lab, await lab.stream())
    name = case.stream.name
    async with case.running():
        await case.publish(10)
        assert await until(lambda: case.is_stored and case.is_ready, PATIENCE), f"{edit.name}: {case.reason}"
        original = await lab.consumer_config(name)
        is_updated = await edited(lab, name, original | of_stream(edit.changes, name))
        await case.publish(10)
        with Quiet(case, logged):
            if wait is None:
                await until(lambda: names(case.reason, edit), NOTICED)
                await until(lambda: case.is_stored or names(case.reason, edit), PATIENCE)
                outcomes[outcome(case, edit)] += 1
            else:
                await asyncio.sleep(wait)
        if is_updated:
            refused = await lab.make_consumer(name, original, action="update")
            # The server deletes a consumer after its inactive threshold, and the projector creates it again.
            assert not refused or "does not exist" in refused, edit.name
        else:
            await lab.delete_consumer(name)
        await case.publish(5)
        stored = await until(lambda: case.is_stored and case.is_ready, PATIENCE)
        assert stored, f"{edit.name}, put back after {wait} s: {len(case.sink.events)} of 25, {case.reason!r}"


async def edited(lab: Lab, stream: str, config: dict[str, Any]) -> bool:
    """Give the consumer this *config*: return true for an update, false if it had to be created again."""
    if not await lab.make_consumer(stream, config, action="update"):
        return True
    await lab.delete_consumer(stream)
    # The projector may be faster, and have created the original.
    await lab.make_consumer(stream, config)
    return False


def outcome(case: Case, edit: Edit) -> str:
    """Return the outcome: completely served, or refused by name and not ready."""
    if case.is_stored and case.error is None:
        return "served"
    assert not case.is_ready, f"{edit.name}: ready, and events are not stored"
    assert names(case.reason, edit), f"{edit.name}: {case.reason!r}"
    return "refused"


def names(reason: str, edit: Edit) -> bool:
    """Return true if *reason* names the edited field."""
    return any(word in reason for word in [*edit.changes, *(["paused"] if "pause_until" in edit.changes else [])])


def test_every_field_is_known(edits: list[Edit]) -> None:
    """Every field that a server shows, and that nats-py or an ADR names, has a known meaning."""
    assert {field for edit in edits for field in edit.changes} <= KNOWN


async def test_edited_before_the_start(lab: Lab, edits: list[Edit], logged: list[MutableMapping[str, Any]]) -> None:
    """A durable made by hand is served completely, or refused with the field's name."""
    outcomes: Counter[str] = Counter()
    failed = await gathered([partial(edit_before, lab, edit, logged, outcomes) for edit in edits], at_once=AT_ONCE)

    assert failed == []
    assert outcomes["served"] + outcomes["refused"] == len(edits) >= 60, outcomes


async def test_edited_while_it_is_read(lab: Lab, edits: list[Edit], logged: list[MutableMapping[str, Any]]) -> None:
    """An edit is noticed and adapted to, or refused by name; once it is undone, no event is missing."""
    outcomes: Counter[str] = Counter()
    runs = [partial(edit_while_running, lab, edit, logged, outcomes) for edit in edits]

    assert await gathered(runs, at_once=AT_ONCE) == []
    assert outcomes["served"] + outcomes["refused"] == len(edits) >= 60, outcomes


async def test_edited_and_put_back(lab: Lab, edits: list[Edit], logged: list[MutableMapping[str, Any]]) -> None:
    """Messages that an edit left out are delivered, even if it was undone before a check."""
    draw, outcomes = Random(1), Counter[str]()
    runs = [partial(edit_while_running, lab, edit, logged, outcomes, wait=draw.uniform(0.0, LOOK)) for edit in edits]

    assert await gathered(runs, at_once=AT_ONCE) == []
