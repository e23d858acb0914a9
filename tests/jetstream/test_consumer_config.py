"""The meaning of a consumer's configuration for its pullers, in the server's words."""

from __future__ import annotations

from typing import Any

import pytest

from noetl_events.jetstream.consumer_config import (
    ConsumerLimits,
    config_of,
    differences,
    filters_of,
    is_of_a_projector,
    limits_of,
    remarks,
)
from noetl_events.jetstream.declarations import ConsumerDeclaration

SECOND = 1_000_000_000
DECLARED = ConsumerDeclaration(name="c", stream="s", ack_wait=30.0)


@pytest.mark.parametrize(
    ("changes", "limits"),
    [
        pytest.param({}, ConsumerLimits(), id="as declared"),
        pytest.param({"ack_wait": 20 * SECOND}, ConsumerLimits(ack_wait=20.0), id="shorter wait"),
        pytest.param({"backoff": [5 * SECOND, 60 * SECOND]}, ConsumerLimits(ack_wait=5.0), id="rising waits"),
        pytest.param({"backoff": [60 * SECOND, 4 * SECOND]}, ConsumerLimits(ack_wait=4.0), id="falling waits"),
        pytest.param({"backoff": None, "ack_wait": 0}, ConsumerLimits(), id="no wait"),
        pytest.param({"max_batch": 7}, ConsumerLimits(batch=7), id="messages of a request"),
        pytest.param({"max_expires": SECOND // 2}, ConsumerLimits(expires=0.5), id="time of a request"),
        pytest.param({"max_bytes": 500}, ConsumerLimits(bytes=500), id="bytes of a request"),
        pytest.param({"max_waiting": 3}, ConsumerLimits(waiting=3), id="requests at once"),
        pytest.param({"priority_timeout": 3 * SECOND}, ConsumerLimits(pin_ttl=3.0), id="pin"),
    ],
)
def test_limits(changes: dict[str, Any], limits: ConsumerLimits) -> None:
    """Each limit is in seconds, bytes or messages; the shortest of several waits applies."""
    assert limits_of(DECLARED, config_of(DECLARED) | changes) == limits


@pytest.mark.parametrize(
    ("config", "filters"),
    [
        pytest.param({}, set(), id="all"),
        pytest.param({"filter_subject": "", "filter_subjects": None}, set(), id="all, in words"),
        pytest.param({"filter_subject": "a"}, {"a"}, id="one"),
        pytest.param({"filter_subjects": ["a", "b"]}, {"a", "b"}, id="several"),
        pytest.param({"filter_subject": "c", "filter_subjects": ["a", "b"]}, {"a", "b", "c"}, id="both"),
    ],
)
def test_filters(config: dict[str, Any], filters: set[str]) -> None:
    """A consumer has its filter in either field, or in both."""
    assert filters_of(config) == filters


def test_several_filters_are_named() -> None:
    """Filters that leave messages out are refused by the name of their field."""
    for field, value in (("filter_subject", "s.a"), ("filter_subjects", ["s.a", "s.b"])):
        [found] = differences(DECLARED, config_of(DECLARED) | {field: value})
        assert found.field == field


@pytest.mark.parametrize(
    ("metadata", "is_ours"),
    [
        pytest.param({"noetl-events": "projector"}, True, id="as made"),
        pytest.param({"noetl-events": "projector", "_nats.level": "1", "team": "x"}, True, id="with more"),
        pytest.param({"noetl-events": "tail"}, False, id="another use"),
        pytest.param({"team": "x"}, False, id="of others"),
        pytest.param(None, False, id="none"),
    ],
)
def test_mark_of_a_projector(metadata: dict[str, str] | None, *, is_ours: bool) -> None:
    """The mark of a projector counts whatever metadata is beside it, and no other metadata counts."""
    assert is_of_a_projector({"metadata": metadata}) is is_ours


def test_what_is_kept_to_is_told() -> None:
    """Each limit that applies is logged by its field with value and unit; a consumer as declared logs nothing."""
    config = config_of(DECLARED)
    assert remarks(DECLARED, config) == {}
    told = remarks(DECLARED, config | {"max_batch": 7, "max_expires": SECOND // 2, "ack_wait": 20 * SECOND})

    assert told == {
        "ack_wait": "20 s instead of 30 s; the projector keeps to it",
        "max_batch": "requests ask for at most 7 messages",
        "max_expires": "requests ask for at most 0.5 s",
    }
