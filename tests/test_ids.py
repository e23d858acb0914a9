"""Ids: unique and rising, whatever the clock does."""

from __future__ import annotations

import threading
from itertools import chain, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetl_events.ids import EPOCH_MS, Snowflake, derived_id, node_of, process_ids


def test_bits() -> None:
    """41 bits of milliseconds since 2024, 10 of node, 12 of sequence."""
    ids = Snowflake(node=5, clock=lambda: EPOCH_MS + 1_000)

    assert ids() == 1_000 << 22 | 5 << 12 | 0
    assert ids() == 1_000 << 22 | 5 << 12 | 1


def test_wrapped_sequence_goes_on_in_the_next_millisecond() -> None:
    """The 4097th id of a millisecond neither repeats nor waits for a clock that stands still."""
    ids = Snowflake(node=0, clock=lambda: EPOCH_MS)
    made = [ids() for _ in range(10_000)]

    assert made == sorted(set(made))


@given(st.lists(st.integers(EPOCH_MS, EPOCH_MS + 2**40), min_size=1))
def test_never_goes_back(times: list[int]) -> None:
    """Ids rise strictly though the clock jumps to and fro."""
    clock = chain(times, repeat(times[-1]))
    ids = Snowflake(node=1, clock=lambda: next(clock))
    made = [ids() for _ in range(len(times) + 5)]

    assert made == sorted(set(made))
    assert all(0 <= made_id < 2**63 for made_id in made)


def test_threads_share_a_generator() -> None:
    """Eight threads making ids at once make no id twice."""
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
    """A clock that 41 bits cannot hold is an error and not a wrong id."""
    with pytest.raises(ValueError, match="check the clock"):
        Snowflake(node=1, clock=lambda: clock)()


@pytest.mark.parametrize(
    ("environ", "node"),
    [
        pytest.param({"NOETL_SNOWFLAKE_NODE_ID": "7", "NOETL_SHARD_ID": "8"}, 7, id="node id first"),
        pytest.param({"NOETL_SHARD_ID": "8"}, 8, id="then shard"),
        pytest.param({}, node_of("worker-1", {}), id="then a hash"),
    ],
)
def test_node_of_environment(environ: dict[str, str], node: int) -> None:
    """The variables are asked in NoETL's order."""
    assert node_of("worker-1", environ) == node


def test_node_of_worker_is_stable() -> None:
    """The hash of a worker id is the same in every process and on every version."""
    assert node_of("worker-1", {}) == 187
    assert node_of("worker-2", {}) != node_of("worker-1", {})


@pytest.mark.parametrize("text", ["1024", "-1", "x", "\N{FULLWIDTH DIGIT ONE}"])
def test_wrong_node_is_refused(text: str) -> None:
    """The error names the variable and its value."""
    with pytest.raises(ValueError, match=f"NOETL_SHARD_ID: '{text}'"):
        node_of("w", {"NOETL_SHARD_ID": text})


def test_emitters_of_a_worker_share_one_generator() -> None:
    """Two emitters of a worker would else make the same id in the same millisecond."""
    assert process_ids("worker-1") is process_ids("worker-1")


def test_derived_id_is_the_same_for_a_redelivery() -> None:
    """Time and sequence of the stored message decide, and neighbours differ."""
    assert derived_id(EPOCH_MS + 5, 9) == derived_id(EPOCH_MS + 5, 9) == 5 << 22 | 9
    assert derived_id(EPOCH_MS + 5, 9) != derived_id(EPOCH_MS + 5, 10)
    assert 0 <= derived_id(0, 2**63) < 2**63
