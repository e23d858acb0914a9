"""What was asked for and has not come: the oldest request is served first, and its end is the end of those before."""

from __future__ import annotations

import json

import pytest

from noetl_events.jetstream.pull_requests import PullRequests, pull_request


def test_messages_count_for_the_oldest() -> None:
    """A request is over when all its messages came, and the next one is counted from there."""
    requests = PullRequests()
    requests.add(2)
    second = requests.add(3)
    for _ in range(4):
        requests.receive()
    assert (len(requests), requests.outstanding) == (1, 1)

    requests.end(second)
    assert (len(requests), requests.outstanding) == (0, 0)


def test_lost_messages_are_waited_for_no_longer_than_their_request() -> None:
    """When the server ends a request, what it sent and we never saw is not outstanding any more."""
    requests = PullRequests()
    first = requests.add(100)
    requests.add(50)
    requests.receive()
    requests.end(first)

    assert requests.outstanding == 50


def test_end_of_a_later_request_ends_those_before() -> None:
    """The server serves in order: the end of a later request says that the earlier ones are over."""
    requests = PullRequests()
    requests.add(10)
    requests.add(10)
    requests.end(requests.add(1))

    assert requests.outstanding == 0


def test_unasked_message_counts_for_nothing() -> None:
    """A message that comes after everything was forgotten does not go below zero."""
    requests = PullRequests()
    requests.add(5)
    requests.forget()
    requests.receive()

    assert requests.outstanding == 0


@pytest.mark.parametrize(
    ("expires", "waiting"),
    [
        pytest.param(30.0, {"expires": 30 * 10**9, "idle_heartbeat": 5 * 10**9}, id="long"),
        pytest.param(3.0, {"expires": 3 * 10**9, "idle_heartbeat": 10**9}, id="short: a heartbeat each third of it"),
        pytest.param(0, {"no_wait": True}, id="none"),
    ],
)
def test_body_of_a_request(expires: float, waiting: dict[str, object]) -> None:
    """Times are nanoseconds, and the server refuses a heartbeat longer than half the time a request waits."""
    body = json.loads(pull_request(batch=7, max_bytes=9, expires=expires, group="g"))

    assert body == {"batch": 7, "max_bytes": 9, "group": "g"} | waiting
