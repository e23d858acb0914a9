"""Bugs of the retry loop and of its callers."""

from __future__ import annotations

from tests.mutations.mutation import Mutation

RETRIES = (
    Mutation(
        "a destination's retry_after is the whole wait",
        "noetl_events/retry.py",
        "else max(wait, asked * random.uniform(1.0, 1.1))",
        "else asked",
        "tests/test_retry.py::test_projector_waits_whatever_a_sink_asks_for",
    ),
    Mutation(
        "a destination may ask for a century, or for NaN",
        "noetl_events/sink.py",
        "        self.retry_after = _bounded(retry_after)\n",
        "        self.retry_after = retry_after\n",
        "tests/test_retry.py::test_gateway_asks_its_client_for_whole_seconds",
    ),
    Mutation(
        "the gateway sends its clients away for no time",
        "consumers/gateway/ingest.py",
        "max(_COME_AGAIN, math.ceil(exc.retry_after or 0))",
        "_COME_AGAIN if exc.retry_after is None else math.ceil(exc.retry_after)",
        "tests/test_retry.py::test_gateway_asks_its_client_for_whole_seconds",
    ),
    Mutation(
        "an optional sink that asks for no rest gets none",
        "noetl_events/sinks/fanout.py",
        "_WAITS.wait(self._failures, asked=retry_after)",
        "(_WAITS.wait(self._failures) if retry_after is None else retry_after)",
        "tests/test_retry.py::test_optional_sink_is_left_alone_whatever_it_asks_for",
    ),
    Mutation(
        "one that works for a moment each time is tried without end",
        "noetl_events/retry.py",
        " and now - self._working_since >= self._backoff.maximum:",
        ":",
        "tests/test_retry.py::test_one_that_works_for_a_moment_each_time_is_not_tried_at_the_first_pace",
    ),
    Mutation(
        "each failed attempt is a line in the log",
        "noetl_events/retry.py",
        " or now - self._logged[1] >= _REMIND_AFTER:",
        " or now > self._logged[1]:",
        "tests/test_retry.py::test_holding_is_said_again_each_minute_and_for_another_kind",
    ),
    Mutation(
        "a wait continues beyond the patience",
        "noetl_events/retry.py",
        "        self.wait = min(wait, self._deadline - now)\n",
        "        self.wait = wait\n",
        "tests/test_retry.py::test_rebuild_gives_up_in_time_whatever_a_sink_asks_for",
    ),
    Mutation(
        "one that works busily has not worked for long",
        "noetl_events/retry.py",
        "        if self._working_since is None:\n            self._working_since = now\n",
        "        self._working_since = now\n",
        "tests/test_retry.py::test_one_that_worked_for_long_is_tried_soon",
    ),
    Mutation(
        "one that works for a moment each time counts as working ever since",
        "noetl_events/retry.py",
        "        self._working_since = None\n        self._failures += 1\n",
        "        self._failures += 1\n",
        "tests/test_retry.py::test_one_that_works_for_a_moment_each_time_is_not_tried_at_the_first_pace",
    ),
    Mutation(
        "an outage within a minute of the one before it is not said",
        "noetl_events/retry.py",
        "        self._failing_since = self._logged = None\n",
        "        self._failing_since = None\n",
        "tests/test_retry.py::test_outages_of_one_attempt_after_the_other_are_each_said",
    ),
)
