"""Bugs of the comparison of two events with one key."""

from __future__ import annotations

from tests.mutations.mutation import Mutation

CONFLICTS = (
    Mutation(
        "a batch of conflicts holds its projector for ever",
        "consumers/projector/projector.py",
        "        reasons = [reason for place, reason in part.reasons.items() if place not in part.conflicts]\n",
        "        reasons = list(part.reasons.values())\n",
        "tests/projector/test_refusals.py::test_conflicts_alike_are_buried",
    ),
    Mutation(
        "a sink that rejects every event is judged by another sink's answer",
        "noetl_events/sinks/fanout.py",
        "conflicts=rejected.keys() - refused, parts=parts)",
        "conflicts=rejected.keys() - refused)",
        "tests/projector/test_refusals.py::test_one_of_several_sinks_that_refuses_alike_is_held",
    ),
    Mutation(
        "a table that accepts no row dead-letters events beside conflicts",
        "consumers/sinks/postgres/writer.py",
        "    if len(refused.keys() | conflicts) < len(rows):\n",
        "    if len(refused) < len(rows):\n",
        "tests/sinks/test_postgres_conflicts.py::test_table_that_takes_no_row_is_held_beside_conflicts",
    ),
    Mutation(
        "an answer of 409 counts as stored",
        "noetl_events/sinks/http/client.py",
        "        if said.duplicate or is_409_stored:\n",
        "        if said.duplicate or self.status:\n",
        "tests/sinks/test_http_faults.py::test_409_that_does_not_say_stored_is_a_refusal",
    ),
    Mutation(
        "of two events with one key in a batch the second is never sent",
        "noetl_events/sinks/http/sink.py",
        "            encoded.setdefault(body, Encoded(",
        "            encoded.setdefault(b'%d' % event.event_id, Encoded(",
        "tests/sinks/test_http.py::TestHttpSink",
    ),
    Mutation(
        "another event with a key that is there is taken for the same one",
        "consumers/sinks/postgres/session.py",
        "if one.likeness is not Likeness.SAME",
        "if one.likeness is Likeness.VARIANT",
        "tests/sinks/test_postgres_conflicts.py::test_conflict_is_rejected_and_its_neighbours_are_stored",
    ),
    Mutation(
        "of two events with one key in a batch either may be stored",
        "consumers/sinks/postgres/session.py",
        "ORDER BY event_id, execution_id, place ",
        "ORDER BY event_id, execution_id, place DESC ",
        "tests/sinks/test_postgres_conflicts.py::test_of_two_in_one_batch_the_first_is_stored",
    ),
    Mutation(
        "a row that is deleted before it is compared takes its event along",
        "consumers/sinks/postgres/session.py",
        '            if not any(row["is_gone"] for row in unlike):\n                break\n',
        "            break\n",
        "tests/sinks/test_postgres_conflicts.py::test_row_deleted_in_between_is_stored_again",
    ),
    Mutation(
        "a row that the table changes as it is inserted is a conflict with itself",
        "consumers/sinks/postgres/session.py",
        'if row["place"] not in inserted]',
        "]",
        "tests/sinks/test_postgres_conflicts.py::test_trigger_that_masks_makes_no_conflict_of_what_is_new",
    ),
    Mutation(
        "a digest proves nothing",
        "consumers/sinks/postgres/session.py",
        'other = "old.digest IS DISTINCT FROM new.digest" if self._shape.has_digest else "true"',
        'other = "true"',
        "tests/sinks/test_postgres_conflicts.py::test_rewritten_row_is_no_conflict",
    ),
    Mutation(
        "another event in a SQLite file is taken for the same one",
        "consumers/sinks/sqlite.py",
        '    if digest == row.values["digest"]:\n        return None\n',
        "    if digest is not None:\n        return None\n",
        "tests/sinks/test_sqlite_conflicts.py::test_conflict_is_rejected_and_its_neighbours_are_stored",
    ),
    Mutation(
        "a variant is a conflict",
        "noetl_events/conflicts.py",
        "return Likeness.VARIANT if self._is_of_one_moment else Likeness.CONFLICT",
        "return Likeness.CONFLICT",
        "tests/test_conflicts.py::test_events_as_they_were_emitted",
    ),
    Mutation(
        "a time in seconds proves that two events are one",
        "noetl_events/conflicts.py",
        "        if self.stored.time is None or self.event.time is None or self._resolution > 1:\n",
        "        if self.stored.time is None or self.event.time is None:\n",
        "tests/test_conflicts.py::test_a_clock_of_milliseconds_proves_nothing",
    ),
    Mutation(
        "a row with its time of arrival is another event",
        "noetl_events/conflicts.py",
        "return apart <= self._resolution or (apart > _COLLISION and not self.as_emitted)",
        "return apart <= self._resolution",
        "tests/test_conflicts.py::test_rows_of_other_writers",
    ),
    Mutation(
        "a memory sink keeps one event an id",
        "noetl_events/sinks/memory.py",
        "self._bodies.setdefault((event.execution_id, event_id), body)",
        "self._bodies.setdefault((0, event_id), body)",
        "tests/sinks/test_memory_noop.py::TestMemorySink",
    ),
    Mutation(
        "a resent dead letter is stored by every consumer",
        "consumers/projector/projector.py",
        'if recipient_of(message) in ("", self.consumer.name)]',
        "]",
        "tests/dead_letters/test_resending.py::test_letter_sent_again_is_skipped_by_other_consumers",
    ),
    Mutation(
        "dead letters of one message get different ids",
        "consumers/dead_letters/letter.py",
        "        place = self.first_place\n",
        "        place = self.place\n",
        "tests/dead_letters/test_resending.py::test_new_id_follows_from_the_first_place",
    ),
    Mutation(
        "verify takes a lost conflict for a variant",
        "consumers/verification/ledger.py",
        "WHERE execution_id = ?1 AND event_id = ?2 AND frame = ?4\n",
        "WHERE execution_id = ?1 AND event_id = ?2 AND ?4 = ?4\n",
        "tests/verify/test_conflicts.py::test_conflict_is_lost_until_there_is_a_letter",
    ),
)
