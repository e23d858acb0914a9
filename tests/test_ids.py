"""Ids: unique and increasing, whatever the clock does."""

from __future__ import annotations

import json
import os
import signal
import threading
from contextlib import suppress
from itertools import chain, repeat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetl_events.ids import EPOCH_MS, Snowflake, configured_node, derived_id, process_ids

if TYPE_CHECKING:
    from collections.abc import Callable


def in_child(make: Callable[[], list[int]]) -> list[int]:
    """Return what *make* returns in a forked child."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        # No handler and no fixture of the parent may run in the child; a child that hangs is ended by the alarm.
        signal.alarm(30)
        try:
            os.write(writer, json.dumps(make()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    made: list[int] = json.loads(text or "[]")
    return made


def test_bits() -> None:
    """An id has 41 bits of milliseconds since 2024, 10 bits of node and 12 bits of sequence."""
    ids = Snowflake(node=5, first_sequence=0, clock=lambda: EPOCH_MS + 1_000)

    assert ids() == 1_000 << 22 | 5 << 12 | 0
    assert ids() == 1_000 << 22 | 5 << 12 | 1


def test_wrapped_sequence_goes_on_in_the_next_millisecond() -> None:
    """The 4097th id of a millisecond neither repeats an id nor waits for a clock that stands still."""
    ids = Snowflake(node=5, first_sequence=7, clock=lambda: EPOCH_MS)
    made = [ids() for _ in range(10_000)]

    assert made == sorted(set(made))
    # Every id has the right node, and no millisecond starts at the sequence of another process.
    assert {each >> 12 & 1023 for each in made} == {5}
    assert min(each & 4095 for each in made) == 7


@given(st.lists(st.integers(EPOCH_MS, EPOCH_MS + 2**40), min_size=1))
def test_never_goes_back(times: list[int]) -> None:
    """Ids increase strictly while the clock jumps back and forth."""
    clock = chain(times, repeat(times[-1]))
    ids = Snowflake(node=1, clock=lambda: next(clock))
    made = [ids() for _ in range(len(times) + 5)]

    assert made == sorted(set(made))
    assert all(0 <= made_id < 2**63 for made_id in made)


def test_threads_share_a_generator() -> None:
    """Eight threads that make ids at once never make the same id."""
    ids = Snowflake(node=1)
    made: list[int] = []
    threads = [threading.Thread(target=lambda: made.extend([ids() for _ in range(2_000)])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(made)) == 16_000


@pytest.mark.parametrize("node", [-1, 1024])
def test_node_out_of_range_is_refused(node: int) -> None:
    """The error names the node and its range."""
    with pytest.raises(ValueError, match=f"node: {node} is not in 0..1023"):
        Snowflake(node=node)


@pytest.mark.parametrize("clock", [EPOCH_MS - 1, EPOCH_MS + 2**41])
def test_clock_out_of_range_is_refused(clock: int) -> None:
    """A clock that 41 bits cannot hold is an error, not a wrong id."""
    with pytest.raises(ValueError, match="check the clock"):
        Snowflake(node=1, clock=lambda: clock)()


@pytest.mark.parametrize("clock", [EPOCH_MS - 1, EPOCH_MS - 10**12, EPOCH_MS + 2**41, EPOCH_MS + 2**50])
def test_clock_that_is_put_right_is_believed(clock: int) -> None:
    """A clock that is wrong for a moment raises during that moment; the ids after it are right and increasing."""
    times = iter([EPOCH_MS + 5, clock, clock, EPOCH_MS + 6])
    ids = Snowflake(node=1, clock=lambda: next(times))
    made = [ids()]
    for _ in range(2):
        # A clock before the epoch counts as a clock that went back.
        with suppress(ValueError):
            made.append(ids())
    made.append(ids())

    assert made == sorted(set(made))
    assert made[-1] >> 22 == 6


@pytest.mark.parametrize(
    ("environ", "node"),
    [
        pytest.param({"NOETL_SNOWFLAKE_NODE_ID": "7", "NOETL_SHARD_ID": "8"}, 7, id="node id first"),
        pytest.param({"NOETL_SHARD_ID": "8"}, 8, id="then shard"),
        pytest.param({}, None, id="neither"),
    ],
)
def test_configured_node(environ: dict[str, str], node: int | None) -> None:
    """The variables are read in NoETL's order."""
    assert configured_node(environ) == node


@pytest.mark.parametrize("text", ["1024", "-1", "x", "\N{FULLWIDTH DIGIT ONE}"])
def test_wrong_node_is_refused(text: str) -> None:
    """The error names the variable and its value."""
    with pytest.raises(ValueError, match=f"NOETL_SHARD_ID: '{text}'"):
        configured_node({"NOETL_SHARD_ID": text})


def test_process_has_one_generator() -> None:
    """Two generators in a process would make the same id in the same millisecond, so emitters share one."""
    assert process_ids() is process_ids()


def test_burst_does_not_run_ahead_of_the_clock() -> None:
    """At least 2,048 ids fit in a millisecond, wherever its sequence starts."""
    for _ in range(50):
        ids = Snowflake(clock=lambda: EPOCH_MS + 1)
        made = [ids() for _ in range(2_048)]

        assert {each >> 22 for each in made} == {1}


def test_processes_on_one_node_start_apart() -> None:
    """Two processes that share a node do not make the same ids in the same millisecond."""
    starts = {Snowflake(node=1, clock=lambda: EPOCH_MS + 1)() for _ in range(20)}

    assert len(starts) > 10


def test_forked_children_make_ids_of_their_own() -> None:
    """Ten children that are forked in the middle of a millisecond, and their parent, never make the same id."""
    ids = Snowflake(clock=lambda: EPOCH_MS + 1)
    made = [ids() for _ in range(200)]
    for _ in range(10):
        made += in_child(lambda: [ids() for _ in range(200)])
    made += [ids() for _ in range(200)]

    assert len(set(made)) == len(made)


def test_child_on_the_node_of_its_parent_begins_with_a_millisecond_of_its_own() -> None:
    """A child with the configured node of its parent does not continue the parent's sequence."""
    ids = Snowflake(node=1, clock=lambda: EPOCH_MS + 1)
    made = [ids() for _ in range(200)]
    made += in_child(lambda: [ids() for _ in range(200)])
    made += [ids() for _ in range(200)]

    assert len(set(made)) == len(made)


def test_child_forked_while_a_thread_makes_an_id_does_not_hang() -> None:
    """A lock that a thread of the parent holds during the fork is free in the child."""
    inside, go_on = threading.Event(), threading.Event()

    def slow_clock() -> int:
        if threading.current_thread() is maker:
            inside.set()
            go_on.wait()
        return EPOCH_MS + 1

    ids = Snowflake(node=1, clock=slow_clock)
    maker = threading.Thread(target=ids)
    maker.start()
    inside.wait()
    try:
        assert len(in_child(lambda: [ids()])) == 1
    finally:
        go_on.set()
        maker.join()


def test_fork_that_runs_no_hook_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server such as uWSGI forks in C; a changed process id reveals the fork."""
    ids = Snowflake(clock=lambda: EPOCH_MS + 1)
    parents = [ids() for _ in range(2_048)]
    monkeypatch.setattr(os, "getpid", lambda: -1)
    children = [ids() for _ in range(2_048)]

    assert not {each % 2**22 for each in parents} & {each % 2**22 for each in children}


def test_derived_id_is_the_same_for_a_redelivery() -> None:
    """An id derived from time and sequence of a stored message is stable, and neighbours differ."""
    assert derived_id(EPOCH_MS + 5, 9) == derived_id(EPOCH_MS + 5, 9) == 5 << 22 | 9
    assert derived_id(EPOCH_MS + 5, 9) != derived_id(EPOCH_MS + 5, 10)
    assert 0 <= derived_id(0, 2**63) < 2**63
