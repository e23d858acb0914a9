"""The one retry loop: its waits, its limits and its log lines."""

from __future__ import annotations

import asyncio
import math
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from starlette.requests import Request
from structlog.testing import capture_logs

from consumers.backfill import emit_patiently
from consumers.gateway.errors import ApiError
from consumers.gateway.ingest import Ingest
from consumers.gateway.requests import RequestLimiter
from consumers.projector.hold import Hold
from consumers.projector.progress import Progress
from noetl_events import SinkUnavailable, encode
from noetl_events.retry import Backoff, Retry
from noetl_events.sinks.fanout import BestEffort, FanoutSink
from noetl_events.sinks.memory import MemorySink
from noetl_events.sinks.spool.sink import SpoolSink
from noetl_events.testing import FaultySink, eventually, make_event, make_events
from tests.simulation.clock import run_virtual

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

WAITS = Backoff(initial=0.2, maximum=15.0)
HOUR = 3600.0
# An hour has 240 to 480 of the longest waits, and a few short ones before.
AT_MOST = 490

ABSURD = [
    pytest.param(0, id="zero"),
    pytest.param(-1, id="negative"),
    pytest.param(math.nan, id="nan"),
    pytest.param(math.inf, id="infinite"),
    pytest.param(-math.inf, id="infinitely negative"),
    pytest.param(100 * 366 * 86_400, id="a century"),
    pytest.param(10**400, id="no float"),
    pytest.param("7", id="text"),
]


class Away(MemorySink):
    """A sink that asks for *retry_after* with every refusal, and counts the refusals."""

    def __init__(self, retry_after: Any) -> None:
        super().__init__()
        self.retry_after = retry_after
        self.times: list[float] = []

    async def emit_batch(self, _: Any) -> None:
        """Refuse."""
        self.times.append(time.monotonic())
        raise SinkUnavailable("away", self.retry_after)


def in_an_hour(work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Run *work* for a virtual hour."""

    async def limited() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(HOUR):
                await work()

    run_virtual(limited(), 1)


def gaps(times: list[float]) -> list[float]:
    """Return the seconds between successive *times*."""
    return [later - earlier for earlier, later in pairwise(times)]


@pytest.mark.parametrize("asked", ABSURD)
def test_projector_waits_whatever_a_sink_asks_for(asked: Any) -> None:
    """A projector that retries makes as many attempts as its back-off allows, whatever the sink asks for."""
    sink = Away(asked)
    in_an_hour(lambda: Hold(Progress(), WAITS).until_available("sink", lambda: sink.emit(make_event(1))))

    assert 240 <= len(sink.times) <= AT_MOST
    assert min(gaps(sink.times)) >= WAITS.initial / 2


@pytest.mark.parametrize("asked", ABSURD)
def test_fanout_passes_on_nothing_absurd(asked: Any) -> None:
    """The retry_after of one of several required sinks does not change the pace of a projector."""
    sink = Away(asked)
    fanout = FanoutSink([MemorySink(), sink, Away(None)])
    in_an_hour(lambda: Hold(Progress(), WAITS).until_available("sink", lambda: fanout.emit(make_event(1))))

    assert 240 <= len(sink.times) <= AT_MOST


@pytest.mark.parametrize("asked", ABSURD)
def test_optional_sink_is_left_alone_whatever_it_asks_for(asked: Any) -> None:
    """An unavailable optional sink is tried every five to ten seconds, whatever the number of batches."""
    sink, now = Away(asked), 0.0
    effort = BestEffort(sink, name="x", now=lambda: now)

    async def emit() -> None:
        nonlocal now
        for tenth in range(36_000):
            now = tenth / 10
            await effort.emit_batch([make_event(1)])

    asyncio.run(emit())

    assert 360 <= len(sink.times) <= 730


@pytest.mark.parametrize("asked", ABSURD)
def test_rebuild_gives_up_in_time_whatever_a_sink_asks_for(asked: Any) -> None:
    """A backfill makes some attempts within its patience, the last one at its end, and then fails."""
    sink = Away(asked)

    async def carry() -> float:
        began = time.monotonic()
        with pytest.raises(SinkUnavailable):
            await emit_patiently(make_events(3), sink, patience=60.0)
        return time.monotonic() - began

    assert run_virtual(carry(), 1) == pytest.approx(60.0, abs=0.01)
    assert 12 <= len(sink.times) <= 35


class Slow:
    """An unavailable sink that takes *seconds* to answer."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def emit_batch(self, _: Any) -> None:
        """Wait, and refuse."""
        await asyncio.sleep(self.seconds)
        raise SinkUnavailable(f"away after {self.seconds} s")


@pytest.mark.parametrize(
    ("seconds", "ends"),
    [
        pytest.param(0.0, 10.0, id="says so at once"),
        pytest.param(4.0, 11.0, id="is cut off"),
        pytest.param(12.0, 12.0, id="has its first attempt whole"),
    ],
)
def test_attempt_does_not_run_over_the_patience(seconds: float, ends: float) -> None:
    """With an overrun of a second the last attempt ends then, and reports the sink's previous failure."""

    async def carry() -> float:
        began = time.monotonic()
        with pytest.raises(SinkUnavailable, match=f"away after {seconds} s"):
            await emit_patiently(make_events(3), Slow(seconds), patience=10.0, overrun=1.0)  # type: ignore[arg-type]
        return time.monotonic() - began

    assert run_virtual(carry(), 1) == pytest.approx(ends, abs=0.01)


@pytest.mark.parametrize("asked", ABSURD)
async def test_spool_waits_whatever_a_sink_asks_for(asked: Any, tmp_path: Path) -> None:
    """A spool forwards again after the waits of its own back-off."""
    sink = Away(asked)
    spool = SpoolSink(sink, tmp_path / "spool", backoff=Backoff(initial=0.04, maximum=0.04), patience=0.0)
    await spool.emit(make_event(1))
    await eventually(lambda: len(sink.times) >= 8)
    await spool.aclose()

    assert min(gaps(sink.times)) >= 0.019


@pytest.mark.parametrize("asked", [None, *ABSURD])
async def test_gateway_asks_its_client_for_whole_seconds(asked: Any) -> None:
    """A client of the gateway gets a Retry-After of two seconds or more, never zero and never a century."""
    body = encode(make_event(1))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {"type": "http", "method": "POST", "headers": [(b"content-length", b"%d" % len(body))]}
    ingest = Ingest(Away(asked), RequestLimiter())
    with pytest.raises(ApiError) as refused:
        await ingest.one(Request(scope, receive))

    assert (refused.value.status, refused.value.retry_after) == (503, 2)


@pytest.mark.parametrize(("asked", "least"), [(20.0, 20.0), (299, 299.0), (86_400, 300.0)])
def test_what_a_sink_asks_for_is_the_least(asked: float, least: float) -> None:
    """A projector waits for the retry_after of a sink, up to five minutes, and at most a tenth longer."""
    sink = Away(asked)
    in_an_hour(lambda: Hold(Progress(), WAITS).until_available("sink", lambda: sink.emit(make_event(1))))
    waits = gaps(sink.times)

    assert least <= min(waits) < max(waits) <= 1.1 * least + 0.01


def test_waits_double_with_jitter_up_to_the_longest() -> None:
    """The waits double from the first to the longest, and jitter keeps replicas apart."""
    sinks = [Away(None), Away(None)]
    for sink in sinks:
        in_an_hour(lambda sink=sink: Hold(Progress(), WAITS).until_available("sink", lambda: sink.emit(make_event(1))))  # type: ignore[misc]
    for number, wait in enumerate(gaps(sinks[0].times)):
        limit = min(0.2 * 2**number, 15.0)
        assert limit / 2 <= wait <= limit + 0.01
    distinct = {round(wait, 6) for wait in gaps(sinks[0].times)}
    assert len(distinct) > 200


def test_success_begins_anew_and_is_said() -> None:
    """After a success the next outage starts with the first wait; failure and success are logged once each."""

    async def work() -> list[float]:
        hold, waits = Hold(Progress(), WAITS), []
        for _ in range(2):
            sink = FaultySink(MemorySink(), [SinkUnavailable("away")] * 6)
            began = time.monotonic()
            await hold.until_available("sink", lambda sink=sink: sink.emit(make_event(1)))  # type: ignore[misc]
            waits.append(time.monotonic() - began)
        return waits

    with capture_logs() as logs:
        waits = run_virtual(work(), 1)

    # The waits are 0.2, 0.4, 0.8, 1.6, 3.2 and 6.4 seconds, or half of that.
    assert all(6.3 <= wait <= 12.7 for wait in waits)
    assert [line["event"] for line in logs] == ["projector.holding", "projector.resumed"] * 2
    assert logs[0]["reason"] == "away"
    assert logs[1]["seconds"] == pytest.approx(waits[0], abs=0.01)


def test_holding_is_said_again_each_minute_and_for_another_kind() -> None:
    """A long outage logs one line a minute, and another one when the class of the failure changes."""

    class Other(SinkUnavailable):
        pass

    sink = FaultySink(MemorySink(), [*[SinkUnavailable("away")] * 100, Other("other")])
    with capture_logs() as logs:
        run_virtual(Hold(Progress(), WAITS).until_available("sink", lambda: sink.emit(make_event(1))), 1)
    holding = [line["reason"] for line in logs if line["event"] == "projector.holding"]

    # A hundred waits of 7.5 to 15 seconds, except for the first.
    assert 10 <= holding.count("away") <= 26
    assert holding.count("other") == 1


def test_one_that_works_for_a_moment_each_time_is_not_tried_at_the_first_pace() -> None:
    """A subscription that is refused a second after each start waits longer and longer."""
    times: list[float] = []

    async def follow() -> None:
        async for attempt in Retry(SinkUnavailable, backoff=WAITS):
            with attempt:
                times.append(time.monotonic())
                attempt.works()
                await asyncio.sleep(1.0)
                raise SinkUnavailable("refused")

    in_an_hour(follow)

    assert 220 <= len(times) <= 460


def test_outages_of_one_attempt_after_the_other_are_each_said() -> None:
    """A subscription that works again is logged as resumed, and its next failure as a new outage, at once."""

    async def follow() -> None:
        async for attempt in Retry(SinkUnavailable, backoff=WAITS, log="reading"):
            with attempt:
                if attempt.attempts % 2:
                    raise SinkUnavailable("refused")
                attempt.works()
                raise SinkUnavailable("restarted")

    with capture_logs() as logs:
        in_an_hour(follow)
    said = [line["event"] for line in logs[:6]]

    assert said == ["reading.holding", "reading.resumed"] * 3


@pytest.mark.parametrize("messages", [1, 16])
def test_one_that_worked_for_long_is_tried_soon(messages: int) -> None:
    """A subscription that worked as long as the longest wait starts again with the first wait."""
    times: list[float] = []

    async def follow() -> None:
        async for attempt in Retry(SinkUnavailable, backoff=WAITS):
            with attempt:
                times.append(time.monotonic())
                for _ in range(messages):
                    attempt.works()
                    await asyncio.sleep(16.0 / messages)
                raise SinkUnavailable("restarted")

    in_an_hour(follow)

    assert max(gaps(times)) < 16.3


def test_unexpected_errors_and_cancellation_leave_the_loop() -> None:
    """Only the named exceptions are retried."""

    async def once(exc: BaseException) -> None:
        async for attempt in Retry(SinkUnavailable, unless=PermissionError):
            assert attempt.attempts == 1
            with attempt:
                raise exc

    class Denied(SinkUnavailable, PermissionError):
        pass

    for exc in (KeyError("bug"), asyncio.CancelledError(), Denied("denied")):
        with pytest.raises(type(exc)):
            run_virtual(once(exc), 1)


def test_hurried_waits_are_short() -> None:
    """A caller that stops ends the current wait, and the next ones last a second each."""
    sink = Away(300.0)

    async def stop() -> None:
        hold = Hold(Progress(), WAITS)
        holding = asyncio.create_task(hold.until_available("sink", lambda: sink.emit(make_event(1))))
        await asyncio.sleep(100.0)
        hold.stop_soon()
        await asyncio.sleep(5.5)
        holding.cancel()

    run_virtual(stop(), 1)

    assert gaps(sink.times) == pytest.approx([100.0, 1.0, 1.0, 1.0, 1.0, 1.0], abs=0.01)
