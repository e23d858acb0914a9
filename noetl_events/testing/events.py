"""Events for tests: realistic ones, a Hypothesis strategy for all that the envelope allows, and a wait."""

from __future__ import annotations

import asyncio
import inspect
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from noetl_events.envelope import ExecutorEvent
from noetl_events.json_values import MAX_INT64, MIN_INT64

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import SearchStrategy


async def eventually(condition: Callable[[], Any], *, timeout: float = 180.0, what: str = "") -> Any:  # noqa: ASYNC109
    """
    Wait until *condition*, a function or a coroutine function, returns a true value, and return that.

    Raises:
        AssertionError: *timeout* seconds have passed; the message ends with *what* and the last value.

    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or condition}: {value!r}")
        await asyncio.sleep(0.01)


_START = datetime(2026, 5, 31, 3, 14, 15, 123456, tzinfo=UTC)


def make_event(event_id: int | None = 1, **changes: Any) -> ExecutorEvent:
    """Return a plain event with this id, and *changes* to its fields."""
    fields: dict[str, Any] = {
        "execution_id": 478775660589088776,
        "event_type": "command.completed",
        "step": "fetch_calendar",
        "status": "COMPLETED",
        "created_at": _START + timedelta(milliseconds=(event_id or 0) % 1_000_000),
        "context": {"result": {"items": event_id}},
        "event_id": event_id,
        "worker_id": "worker-7",
        "meta": {"attempts": 0},
    }
    return ExecutorEvent(**fields | changes)


def make_events(count: int, *, start: int = 1) -> list[ExecutorEvent]:
    """Return *count* plain events with ids from *start* up."""
    return [make_event(event_id) for event_id in range(start, start + count)]


def make_another(event_id: int) -> ExecutorEvent:
    """Return a different event with the key of `make_event(event_id)`, stamped in the same microsecond."""
    return make_event(event_id, event_type="step.enter", step="load", context={"other": event_id})


def json_values() -> SearchStrategy[Any]:
    """Return a strategy for JSON values that every reader of the wire form accepts."""
    from hypothesis import strategies as st  # noqa: PLC0415  (only users of strategies need Hypothesis)

    leaves = (
        st.none()
        | st.booleans()
        | st.integers(MIN_INT64, 2**64 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(codec="utf-8"))
    )
    keys = st.text(st.characters(codec="utf-8"), max_size=8)
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4))


def events() -> SearchStrategy[ExecutorEvent]:
    """Return a strategy for events, with or without ids."""
    from hypothesis import strategies as st  # noqa: PLC0415  (only users of strategies need Hypothesis)

    text = st.text(st.characters(codec="utf-8"))
    ids = st.integers(MIN_INT64, MAX_INT64)
    return st.builds(
        ExecutorEvent,
        execution_id=ids,
        event_type=text,
        step=text,
        status=text,
        created_at=st.datetimes(timezones=st.just(UTC)),
        context=json_values(),
        event_id=st.none() | ids,
        worker_id=st.none() | text,
        meta=st.none() | json_values(),
    )
