"""The pull requests in flight: the oldest is served first, and its end includes those before."""

from __future__ import annotations

import json

import pytest

from noetl_events.jetstream.consume.pull_requests import PullRequests, is_an_ending, pull_request


def test_messages_count_for_the_oldest() -> None:
    """A request is over when all its messages have arrived, and the next one is counted from there."""
    requests = PullRequests()
    requests.add(2)
    second = requests.add(3)
    for _ in range(4):
        requests.receive()
    assert (len(requests), requests.outstanding) == (1, 1)

    requests.end(second)
    assert (len(requests), requests.outstanding) == (0, 0)


def test_lost_messages_are_waited_for_no_longer_than_their_request() -> None:
    """When the server ends a request, its lost messages are no longer outstanding."""
    requests = PullRequests()
    first = requests.add(100)
    requests.add(50)
    requests.receive()
    requests.end(first)

    assert requests.outstanding == 50


def test_end_of_a_later_request_ends_those_before() -> None:
    """The server serves requests in order, so the end of a later one ends the earlier ones."""
    requests = PullRequests()
    requests.add(10)
    requests.add(10)
    requests.end(requests.add(1))

    assert requests.outstanding == 0


def test_unasked_message_counts_for_nothing() -> None:
    """A message after all requests were dropped leaves the count at zero."""
    requests = PullRequests()
    requests.add(5)
    requests.clear()
    requests.receive()

    assert requests.outstanding == 0


def test_body_of_a_request() -> None:
    """The durations in a request are nanoseconds."""
    body = json.loads(pull_request(batch=7, max_bytes=9, expires=1.5, group="g"))

    assert body == {"batch": 7, "max_bytes": 9, "expires": 1_500_000_000, "group": "g"}


@pytest.mark.parametrize(
    ("status", "text"),
    [
        pytest.param("408", "Request Timeout", id="nothing came"),
        pytest.param("409", "Batch Completed", id="its bytes are full"),
        pytest.param("409", "Message Size Exceeds MaxBytes", id="the next one is larger"),
    ],
)
def test_ordinary_end(status: str, text: str) -> None:
    """After these statuses the consumer serves the next request."""
    assert is_an_ending(status, text)


@pytest.mark.parametrize(("status", "text"), [("409", "Leadership Change"), ("409", "Consumer Deleted"), ("503", "")])
def test_end_of_more_than_a_request(status: str, text: str) -> None:
    """After these statuses no request is served until the consumer was looked up."""
    assert not is_an_ending(status, text)
