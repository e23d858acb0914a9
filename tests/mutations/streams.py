"""Bugs in the comparison of streams with their former state and with their declaration."""

from __future__ import annotations

from tests.mutations.mutation import Mutation

STREAMS = (
    Mutation(
        "a stream that was filled again is taken for the one it was",
        "noetl_events/jetstream/stream_identity.py",
        "                    return stored.stored_ns == mark.stored_ns\n",
        "                    return True\n",
        "tests/border/test_stream_identity.py::test_set_back_while_no_projector_runs",
    ),
    Mutation(
        "the identity of the stream is forgotten with the process",
        "consumers/projector/stream_monitor.py",
        '            identity.load(payload or b"[]")\n',
        '            identity.load(b"[]")\n',
        "tests/border/test_stream_identity.py::test_made_anew_while_no_projector_runs",
    ),
    Mutation(
        "a projector is ready while its stream loses events",
        "consumers/health.py",
        "    if fault:\n",
        "    if fault and not connected:\n",
        "tests/border/test_edited_stream.py::test_put_back",
    ),
    Mutation(
        "a delete marker is a dead letter",
        "noetl_events/jetstream/message.py",
        "        if is_of_no_publisher(message):\n",
        "        if not message:\n",
        "tests/border/test_markers.py::test_what_is_skipped",
    ),
    Mutation(
        "an age too short for a restart is of no matter",
        "noetl_events/jetstream/stream_config.py",
        '"unsafe" if field == "max_age" and is_shorter and actual < _SHORTEST_AGE else "weaker"',
        '"unsafe" if field == "max_age" and is_shorter and actual < 0 else "weaker"',
        "tests/border/test_streams.py::test_edited_before_the_start",
    ),
    Mutation(
        "a stream that drops its oldest events looks well",
        "noetl_events/jetstream/stream_config.py",
        '        if limits and config.get("discard", "old") == "old":\n',
        '        if limits and config.get("discard", "old") == "none":\n',
        "tests/border/test_streams.py::test_edited_before_the_start",
    ),
    Mutation(
        "a difference is reported at each check",
        "consumers/projector/stream_monitor.py",
        "        if deviation in before:\n",
        "        if not now:\n",
        "tests/border/test_streams.py::test_edited_before_the_start",
    ),
)
