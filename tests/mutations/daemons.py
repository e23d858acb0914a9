"""Bugs planted in `consumers`."""

from __future__ import annotations

from tests.mutations.mutation import Mutation

DAEMONS = (
    Mutation(
        "acknowledged before it is written",
        "consumers/projector/projector.py",
        "            events, dead = self._decode(ours)\n",
        "            await self._puller.ack(part.messages)\n            events, dead = self._decode(ours)\n",
        "tests/projector/test_projector.py::test_bug_of_a_sink_stops_the_projector",
    ),
    Mutation(
        "a message is acknowledged before its dead letter is stored",
        "consumers/projector/projector.py",
        "            await self._bury(dead)\n            await self._settle(",
        "            await self._puller.ack(part.messages)\n"
        "            await self._bury(dead)\n            await self._settle(",
        "tests/projector/test_projector.py::test_nothing_is_acknowledged_before_its_dead_letter_is_stored",
    ),
    Mutation(
        "a malformed message is dropped",
        "consumers/projector/projector.py",
        '                dead.append((message, "malformed", str(exc)))\n',
        "                log.debug(str(exc))\n",
        "tests/projector/test_projector.py::test_malformed_is_buried_whole_and_its_neighbours_pass",
    ),
    Mutation(
        "a rejected event is dropped",
        "consumers/projector/projector.py",
        "            dead += await self._write(events, part)\n",
        "            await self._write(events, part)\n",
        "tests/projector/test_projector.py::test_rejected_is_buried_and_its_neighbours_pass",
    ),
    Mutation(
        "in an outage messages are given back (nak)",
        "consumers/projector/projector.py",
        "            await self._sink.emit_batch(batch)\n        except EventsRejected as exc:\n",
        "            await self._sink.emit_batch(batch)\n"
        "        except SinkUnavailable:\n"
        "            await self._puller._answer(self._in_hand, b'-NAK')\n            raise\n"
        "        except EventsRejected as exc:\n",
        "tests/projector/test_projector.py::test_outage_longer_than_the_ack_wait_loses_and_reorders_nothing",
    ),
    Mutation(
        "a destination that rejects every event has all dead-lettered",
        "consumers/projector/projector.py",
        "        if len(part.reasons) == len(batch) and times >= _ALIKE:\n",
        "        if len(part.reasons) > len(batch):\n",
        "tests/projector/test_refusals.py::test_refused_alike_is_held",
    ),
    Mutation(
        "no heartbeats while holding",
        "consumers/projector/projector.py",
        "            await self._puller.keep_alive(self._in_hand)\n",
        "            await asyncio.sleep(0)\n",
        "tests/projector/test_projector.py::test_what_one_holds_comes_to_no_other",
    ),
    Mutation(
        "stopping leaves the rest in flight",
        "consumers/projector/projector.py",
        "            while await self.step():\n",
        "            while await self.step() and not self._puller._stopping:\n",
        "tests/faults/test_projector_faults.py::test_terminated_in_the_middle",
    ),
    Mutation(
        "rows are inserted unsorted: two projectors lock each other up",
        "consumers/sinks/postgres/rows.py",
        '    rows.sort(key=attrgetter("event_id"))\n',
        "    rows.sort(key=lambda _: 0)\n",
        "tests/sinks/test_postgres.py::TestPostgresSink::test_same_rows_from_two_sinks_at_once",
    ),
    Mutation(
        "any conflict drops a row in silence",
        "consumers/sinks/postgres/session.py",
        'f"ON CONFLICT ({_KEY}) DO NOTHING RETURNING {_KEY}"',
        'f"ON CONFLICT DO NOTHING RETURNING {_KEY}"',
        "tests/sinks/test_postgres.py::TestPostgresSink::test_double_of_another_index_is_not_swallowed",
    ),
    Mutation(
        "a post is answered before it is stored",
        "consumers/gateway/ingest.py",
        "                await self._store([event])\n",
        "                pass\n",
        "tests/gateway/test_ingest.py::test_one_event",
    ),
    Mutation(
        "a listener resumes one event too late",
        "consumers/gateway/sse.py",
        "        self._position = behind or 0\n",
        "        self._position = (behind or -1) + 1\n",
        "tests/gateway/test_stream.py::test_gateway_restarts",
    ),
    Mutation(
        "any token opens the gateway",
        "consumers/gateway/auth.py",
        "        if scheme.lower() != _SCHEME or not any(matches):\n",
        "        if scheme.lower() != _SCHEME or not matches:\n",
        "tests/gateway/test_ingest.py::test_token",
    ),
    Mutation(
        "a trial is not noted before the write",
        "consumers/projector/quarantine.py",
        "            await self.begin(part)\n",
        "            await asyncio.sleep(0)\n",
        "tests/projector/test_trials.py::test_bug_of_the_sink_ends_with_one_dead_letter",
    ),
    Mutation(
        "an outage counts against the event on trial",
        "consumers/projector/quarantine.py",
        "        except SinkUnavailable:\n            await self.withdraw(part)\n",
        "        except SinkUnavailable:\n            await asyncio.sleep(0)\n",
        "tests/projector/test_trials.py::test_outage_leaves_no_note",
    ),
    Mutation(
        "being stopped counts against the event on trial",
        "consumers/projector/quarantine.py",
        "                async with asyncio.timeout(_FAREWELL):\n                    await self.withdraw(part)\n",
        "                pass\n",
        "tests/projector/test_trials.py::test_being_stopped_during_a_trial_does_not_count",
    ),
    Mutation(
        "being stopped while a trial is noted counts against the event",
        "consumers/projector/quarantine.py",
        "        try:\n            await self.begin(part)\n",
        "        await self.begin(part)\n        try:\n",
        "tests/projector/test_trials.py::test_being_stopped_while_a_trial_is_noted_does_not_count",
    ),
    Mutation(
        "a survived trial stays noted",
        "consumers/projector/quarantine.py",
        "            await self.survive(part)\n",
        "            await asyncio.sleep(0)\n",
        "tests/projector/test_trials.py::test_outage_during_a_trial_does_not_count",
    ),
    Mutation(
        "a verdict hides the next event that kills",
        "consumers/projector/quarantine.py",
        "    return min(holding)[1] if holding else None\n",
        "    return min(holding)[1] if holding else 0 if any(notes) else None\n",
        "tests/simulation/test_simulation.py::test_seed_that_once_failed",
    ),
    Mutation(
        "a verdict is overwritten by the next trial of its block",
        "consumers/projector/quarantine.py",
        "note=note, place=free if place is None else place)",
        "note=note, place=0)",
        "tests/simulation/test_simulation.py::test_seed_that_once_failed",
    ),
    Mutation(
        "the first death is a verdict",
        "consumers/projector/quarantine.py",
        "_FATAL_DEATHS: Final = 2\n",
        "_FATAL_DEATHS: Final = 1\n",
        "tests/projector/test_suspects.py::test_alone_when_the_process_died_twice_is_fatal",
    ),
    Mutation(
        "a gateway with a refused subscription is ready at each attempt",
        "consumers/gateway/hub.py",
        "await_answer=self.failures > 0",
        "await_answer=False",
        "tests/gateway/test_refused.py::test_silent_server_does_not_look_well_at_each_attempt",
    ),
    Mutation(
        "a gateway that may not ask for messages is ready until it notices",
        "noetl_events/jetstream/consume/ephemeral.py",
        "raise PermissionDenied(denial)\n        if self._broken:\n",
        "pass\n        if self._broken:\n",
        "tests/gateway/test_refused.py::test_request_that_is_denied_is_held",
    ),
    Mutation(
        "cancellation is swallowed while holding",
        "noetl_events/retry.py",
        "        if not isinstance(exc, self._errors) or",
        "        if isinstance(exc, KeyError) or",
        "tests/test_retry.py::test_unexpected_errors_and_cancellation_leave_the_loop",
    ),
    Mutation(
        "a dead letter is identified by its sequence alone",
        "consumers/dead_letters/letter.py",
        'f"{consumer}:{stored.sequence}:{stored.stored_ns}"',
        'f"{consumer}:{stored.sequence}"',
        "tests/projector/test_topology_changes.py::test_stream_created_again_buries_its_own",
    ),
    Mutation(
        "acknowledged in spite of an outage",
        "consumers/projector/projector.py",
        '        refused = await self._hold.until_back("sink", partial(self._trials.write, part, emit))\n',
        "        try:\n            refused = await self._trials.write(part, emit)\n"
        "        except SinkUnavailable:\n            refused = {}\n",
        "tests/projector/test_projector.py::test_outage_longer_than_the_ack_wait_loses_and_reorders_nothing",
    ),
    Mutation(
        "an outage of Postgres rejects rows",
        "consumers/sinks/postgres/errors.py",
        '    **dict.fromkeys(("22", "23", "54"), ErrorClass.ROW),\n',
        '    **dict.fromkeys(("22", "23", "54", "53", "57"), ErrorClass.ROW),\n',
        "tests/sinks/test_postgres_outages.py::test_outage_rejects_nothing",
    ),
    Mutation(
        "a browser may take event data for a page",
        "consumers/gateway/server.py",
        '        headers=[("x-content-type-options", "nosniff")],\n',
        "",
        "tests/gateway/test_looking.py::test_hostile_letter_is_data",
    ),
)
