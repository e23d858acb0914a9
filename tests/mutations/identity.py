"""Bugs planted in the identity of events, and in retries."""

from __future__ import annotations

from tests.mutations.mutation import Mutation

IDENTITY = (
    Mutation(
        "two different events with one id are one to the stream",
        "noetl_events/identity.py",
        '    return f"{event_id}-{body_hash.hexdigest()}".encode()\n',
        '    return b"%d" % event_id\n',
        "tests/test_identity.py::test_message_ids_of_one_event_id_differ",
    ),
    Mutation(
        "a forked child continues the ids of its parent",
        "noetl_events/ids.py",
        "        if self._pid != os.getpid():\n            self._start()\n",
        "",
        "tests/test_ids.py::test_forked_children_make_ids_of_their_own",
    ),
    Mutation(
        "two processes on one node make ids in step",
        "noetl_events/ids.py",
        "            first = secrets.randbelow(_FIRST_SEQUENCES) if self._given_first is None else self._given_first\n",
        "            first = self._given_first or 0\n",
        "tests/test_ids.py::test_processes_on_one_node_start_apart",
    ),
    Mutation(
        "a child waits for the lock that a thread of its parent held",
        "noetl_events/ids.py",
        "            self._lock = threading.Lock()\n            self._pid = os.getpid()\n",
        "            self._lock = vars(self).get('_lock', threading.Lock())\n            self._pid = os.getpid()\n",
        "tests/test_ids.py::test_child_forked_while_a_thread_makes_an_id_does_not_hang",
    ),
    Mutation(
        "a retry sends the caller's changed value",
        "noetl_events/emitter.py",
        "            event = with_encoded_payload(event)\n",
        "            with_encoded_payload(event)\n",
        "tests/test_emitter.py::test_emitted_bytes_do_not_change_while_it_waits",
    ),
    Mutation(
        "the event that could not be emitted is not given back",
        "noetl_events/emitter.py",
        "            exc.event = event\n",
        "",
        "tests/test_emitter.py::test_failure_carries_the_event",
    ),
    Mutation(
        "a child on the node of its parent continues its sequence",
        "noetl_events/ids.py",
        "            self._sequence = _SEQUENCES - 1\n",
        "",
        "tests/test_ids.py::test_child_on_the_node_of_its_parent_begins_with_a_millisecond_of_its_own",
    ),
    Mutation(
        "the last id of a millisecond is one of another node",
        "noetl_events/ids.py",
        "            elif sequence == _SEQUENCES:\n",
        "            elif sequence > _SEQUENCES:\n",
        "tests/test_ids.py::test_wrapped_sequence_goes_on_in_the_next_millisecond",
    ),
    Mutation(
        "in a burst each millisecond but the first begins in step with other processes",
        "noetl_events/ids.py",
        "last, sequence = last + 1, self._first\n",
        "last, sequence = last + 1, 0\n",
        "tests/test_ids.py::test_wrapped_sequence_goes_on_in_the_next_millisecond",
    ),
    Mutation(
        "a clock that was wrong for a moment refuses every id after it",
        "noetl_events/ids.py",
        "            if not 0 <= last < _MAX_MS:\n",
        "            self._last_ms, self._sequence = last, sequence\n            if not 0 <= last < _MAX_MS:\n",
        "tests/test_ids.py::test_clock_that_is_put_right_is_believed",
    ),
    Mutation(
        "the failure of a later attempt does not carry the event",
        "noetl_events/emitter.py",
        "            exc.event = event\n            raise\n",
        "            failure.event = event\n            raise\n",
        "tests/test_emitter.py::test_last_of_several_failures_carries_the_event",
    ),
)
