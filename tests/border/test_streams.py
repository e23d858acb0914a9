"""
A stream with each of its fields edited by hand, before a publisher and a projector start and while they run.

Each acknowledged event is stored by the projector, or the projector is not ready and names the field.  An event that
is not acknowledged is refused for a field that the refusal, the projector or `doctor` names.  No request, publish or
log line is repeated without end; and once the edit is undone, events are stored as before.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest

from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import DEAD_LETTERS, TRIALS
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.stream_config import KNOWN
from noetl_events.jetstream.streams import ensure_stream
from tests.border.lab import gathered, until
from tests.border.stream_lab import PATIENCE, Quiet, StreamCase, StreamLab, counted_lines, names, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from noetl_events.testing.nats_server import NatsServer
    from tests.border.edits import Edit

AT_ONCE: Final = 48
_possible: list[Edit] = []


@pytest.fixture
async def lab(edited_server: NatsServer) -> AsyncIterator[StreamLab]:
    """Return a lab with the streams that a projector writes to."""
    async with Connection(ConnectOptions(servers=edited_server.url)) as connection:
        for declared in (DEAD_LETTERS, TRIALS):
            await ensure_stream(connection, declared)
        made = StreamLab(connection)
        await made.count_all()
        yield made


@pytest.fixture
async def edits(lab: StreamLab) -> list[Edit]:
    """Return the edits that the server accepts."""
    if not _possible:
        _possible.extend((await lab.possible_edits())[0])
    return _possible


@pytest.fixture
def lines() -> Iterator[Counter[str]]:
    """Return the counters of log lines in the block, by stream."""
    with counted_lines() as counted:
        yield counted


async def edited_before(lab: StreamLab, edit: Edit, lines: Counter[str], outcomes: Counter[str]) -> None:
    """Edit a stream before its publisher and its projector start."""
    case = StreamCase(lab, await lab.stream())
    with Quiet(case, lines):
        assert not await lab.remake(case.stream, edit), edit.name
        async with case:
            await case.emit(edit)
            async with case.running():
                await case.looked()
                await case.emit(edit)
                outcomes[await outcome(case, edit)] += 1
                assert_told_once(case, lines)


async def edited_while_running(lab: StreamLab, edit: Edit, lines: Counter[str], outcomes: Counter[str]) -> None:
    """Edit a stream while it is written and read, and undo that in the end."""
    case = StreamCase(lab, await lab.stream())
    original = await lab.config_of(case.stream.name)
    async with running(case):
        await case.emit(edit)
        assert await until(lambda: case.is_stored and case.is_ready, PATIENCE), f"{edit.name}: {case.reason}"
        with Quiet(case, lines):
            case.sink.is_away = True
            await case.emit(edit)
            if not await lab.edit(case.stream, edit):
                # The stream was created again, so its messages are gone.
                case.acknowledged &= case.stored
            await case.looked()
            case.sink.is_away = False
            await case.emit(edit)
            await case.looked()
            outcomes[await outcome(case, edit)] += 1
            assert_told_once(case, lines)
            await lab.put_back(case.stream, original)
            before = set(case.acknowledged)
            await case.emit(edit)
            await case.looked()
            since = case.acknowledged - before
            is_well = await until(lambda: since <= case.stored and case.is_ready, PATIENCE)
            assert since
            assert is_well, f"{edit.name}, put back: {case.reason!r}, {case.refusal!r}"


async def edited_beside(lab: StreamLab, edit: Edit, lines: Counter[str], outcomes: Counter[str]) -> None:
    """Edit the dead-letter stream while a projector has a dead letter for it, and undo that."""
    letters = await lab.stream(kind="dead letters")
    original = await lab.config_of(letters.name)
    case = StreamCase(lab, await lab.stream(), letters=letters)
    async with running(case):
        with Quiet(case, lines):
            await lab.edit(letters, edit)
            await case.looked()
            await case.publish_malformed()
            await case.emit(edit)
            await until(lambda: (case.is_stored and case.buried == 1) or names(case.reason, edit), 2.0)
            await until(lambda: case.buried == 1 or not case.is_ready, PATIENCE)
            outcomes[await outcome(case, edit, letters=1)] += 1
            assert_told_once(case, lines)
            await lab.put_back(letters, original)
            is_well = await until(lambda: case.is_stored and case.buried == 1 and case.is_ready, 2 * PATIENCE)
            assert is_well, f"{edit.name}, put back: {case.reason!r}"


def assert_told_once(case: StreamCase, lines: Counter[str]) -> None:
    """Assert that no field was reported more than once."""
    told = {key: count for key, count in lines.items() if key.startswith(f"{case.edited.name}: ")}
    assert not told or max(told.values()) == 1, told


async def outcome(case: StreamCase, edit: Edit, *, letters: int = 0) -> str:
    """Return the outcome: served, adapted to and reported, or refused by name."""
    await until(lambda: (case.is_stored and case.is_ready) or names(case.reason, edit), PATIENCE)
    examined = await case.examined()
    if not case.is_stored or case.buried < letters or case.error is not None:
        assert not case.is_ready, f"{edit.name}: ready, and events are not stored"
        words = f"{case.reason} {examined}" if letters else case.reason
        assert names(words, edit), f"{edit.name}: {case.reason!r}"
        return "refused"
    if case.refusal:
        assert names(f"{case.refusal} {case.reason} {examined}", edit), f"{edit.name}: {case.refusal!r}"
        return "refused"
    assert case.is_ready or names(case.reason, edit), f"{edit.name}: {case.reason!r}"
    return "adapted" if names(examined, edit) else "served"


def test_every_field_is_known(edits: list[Edit]) -> None:
    """Every field that a server shows and nats-py names has a known meaning."""
    assert {field for edit in edits for field in edit.changes} <= KNOWN


async def test_edited_before_the_start(lab: StreamLab, edits: list[Edit], lines: Counter[str]) -> None:
    """A stream made by hand is served correctly, or its loss or refusal is reported by the name of the field."""
    outcomes: Counter[str] = Counter()
    failed = await gathered([partial(edited_before, lab, edit, lines, outcomes) for edit in edits], at_once=AT_ONCE)

    assert failed == []
    assert outcomes.total() == len(edits) >= 60, outcomes


async def test_edited_while_running(lab: StreamLab, edits: list[Edit], lines: Counter[str]) -> None:
    """An edit is noticed and adapted to, or reported by name; once it is undone, events are stored as before."""
    outcomes: Counter[str] = Counter()
    runs = [partial(edited_while_running, lab, edit, lines, outcomes) for edit in edits]

    assert await gathered(runs, at_once=AT_ONCE) == []
    assert outcomes.total() == len(edits) >= 60, outcomes


async def test_edited_beside(lab: StreamLab, edits: list[Edit], lines: Counter[str]) -> None:
    """An edited dead-letter stream stores the dead letter, or the projector retries it and is not ready."""
    outcomes: Counter[str] = Counter()
    # The meaning of each value is the same for both streams, so one value of each field is enough.
    chosen = {edit.field: edit for edit in edits}.values()
    failed = await gathered([partial(edited_beside, lab, edit, lines, outcomes) for edit in chosen], at_once=AT_ONCE)

    assert failed == []
    assert outcomes.total() == len(chosen) >= 40, outcomes
