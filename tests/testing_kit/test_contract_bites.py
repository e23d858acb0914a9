"""Each test of SinkContract fails for a sink that breaks it, and passes for a correct one."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest

from noetl_events import decode
from noetl_events.testing import SinkContract
from tests.testing_kit import broken_conflicts as conflicts
from tests.testing_kit import broken_sinks as broken

if TYPE_CHECKING:
    from noetl_events import EventSink, ExecutorEvent

BROKEN: list[tuple[str, type[broken.GoodSink | broken.NoBatches]]] = [
    ("test_is_an_event_sink", broken.NoBatches),
    ("test_emit_stores_before_it_returns", broken.StoresLater),
    ("test_batch_is_stored_before_it_returns", broken.DropsLast),
    ("test_batch_is_stored_in_order", broken.LosesOrder),
    ("test_empty_batch_is_nothing", broken.NeedsOne),
    ("test_emitted_twice_is_stored_once", broken.KeepsDoubles),
    ("test_twice_in_one_batch_is_stored_once", broken.LooksOncePerBatch),
    ("test_emitted_again_after_reopening_is_stored_once", broken.ForgetsOnReopen),
    ("test_same_event_made_again_is_no_conflict", conflicts.ComparesObjects),
    ("test_same_id_in_another_execution_is_another_event", conflicts.KnowsIdsOnly),
    ("test_conflict_with_a_stored_event", conflicts.ComparesNothing),
    ("test_conflict_with_a_stored_event", conflicts.RejectsWithoutAName),
    ("test_conflict_with_a_stored_event", conflicts.KeepsTheLast),
    ("test_conflict_within_a_batch", conflicts.ComparesNothing),
    ("test_conflict_within_a_batch", conflicts.DropsDoublesFirst),
    ("test_conflict_after_reopening", conflicts.ComparesWithItsOwn),
    ("test_conflict_emitted_again_is_still_one", conflicts.RejectsOnce),
    ("test_other_payload_is_a_variant", conflicts.RejectsVariants),
    ("test_every_field_survives", broken.LosesField),
    ("test_rejects_exactly_what_can_never_be_stored", broken.RejectsWholeBatch),
    ("test_rejects_exactly_what_can_never_be_stored", broken.BlamesAll),
    ("test_rejects_exactly_what_can_never_be_stored", broken.IgnoresRejected),
    ("test_event_without_id_is_given_one_or_refused", broken.StoresBeforeItRefuses),
    ("test_event_without_id_is_given_one_or_refused", broken.StoresWithoutId),
    ("test_rejection_reaches_only_its_emitter", broken.Coalescing),
    ("test_concurrent_emits_are_all_stored", broken.LooksBeforeItWaits),
    ("test_concurrent_emits_are_all_stored", broken.CopiesAndReplaces),
    ("test_cancelled_emit_can_be_emitted_again", broken.RemembersBeforeItWrites),
    ("test_cancelled_emit_can_be_emitted_again", broken.BrokenByCancellation),
    ("test_close_finishes_what_was_accepted", broken.DropsOnClose),
    ("test_close_is_safe_before_use_and_twice", broken.ClosesOnce),
    ("test_close_is_safe_twice_after_use", broken.ClosesOnce),
    ("test_close_is_safe_twice_after_use", broken.TakesAllWithIt),
    ("test_closed_sink_refuses", broken.StoresAfterClose),
    ("test_closed_sink_refuses", broken.DropsAfterClose),
]
"""Each contract test with a sink that it must fail for."""

BROKEN_LOGS: list[tuple[str, type[broken.GoodSink]]] = [
    ("test_same_event_made_again_is_no_conflict", broken.KeepsDoubles),
    ("test_same_id_in_another_execution_is_another_event", conflicts.KnowsIdsOnly),
    ("test_conflict_with_a_stored_event", broken.GoodSink),
    ("test_conflict_with_a_stored_event", conflicts.ComparesNothing),
    ("test_conflict_within_a_batch", conflicts.DropsDoublesFirst),
    ("test_conflict_after_reopening", conflicts.ComparesNothing),
    ("test_conflict_emitted_again_is_still_one", broken.KeepsDoubles),
    ("test_other_payload_is_a_variant", conflicts.ComparesNothing),
]
"""The tests with another rule for destinations without keys, each with a sink that it must fail for."""

PROMISES = [name for name, _ in inspect.getmembers(SinkContract, inspect.isfunction) if name.startswith("test_")]


async def run(name: str, sink_class: type[broken.GoodSink | broken.NoBatches], *, is_keyed: bool = True) -> None:
    """Run a contract test on sinks of *sink_class*."""
    destination: list[bytes] = []

    class Contract(SinkContract):
        keyed = is_keyed

        def open(self) -> EventSink:
            return sink_class(destination)  # type: ignore[return-value]

        async def stored(self) -> list[ExecutorEvent]:
            return [decode(body) for body in destination]

    await getattr(Contract(), name)()


@pytest.mark.parametrize(("name", "sink_class"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
async def test_broken_sink_fails(name: str, sink_class: type[broken.GoodSink | broken.NoBatches]) -> None:
    """A sink that breaks a rule is found by the test of that rule, and by one of its assertions."""
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await run(name, sink_class)


@pytest.mark.parametrize(("name", "sink_class"), BROKEN_LOGS, ids=lambda value: getattr(value, "__name__", value))
async def test_broken_log_fails(name: str, sink_class: type[broken.GoodSink]) -> None:
    """A sink without keys that drops one of two events, or stores one twice, is found."""
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await run(name, sink_class, is_keyed=False)


@pytest.mark.parametrize("name", PROMISES)
async def test_good_sink_passes(name: str) -> None:
    """A correct sink passes, so a failure is significant."""
    await run(name, broken.GoodSink)
    await run(name, broken.GoodLog, is_keyed=False)


def test_every_promise_has_a_sink_that_breaks_it() -> None:
    """Every test of the contract has a sink that it fails for."""
    assert {*PROMISES} == {name for name, _ in BROKEN}
