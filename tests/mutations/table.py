"""Bugs somebody might plant, and the test that finds each: kept true by `make mutations`."""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    """
    One planted bug.

    Args:
        bug: what is wrong then.
        file: it is planted in, from the root of the tree.
        code: that stands there once.
        planted: instead of it.
        test: that fails then, as pytest names it.

    """

    bug: str
    file: str
    code: str
    planted: str
    test: str


MUTATIONS = (
    Mutation(
        "acknowledged before it is written",
        "consumers/projector.py",
        "            events, dead = self._decode(part.messages)\n",
        "            await self._puller.ack(part.messages)\n            events, dead = self._decode(part.messages)\n",
        "tests/projector/test_projector.py::test_bug_of_a_sink_stops_the_projector",
    ),
    Mutation(
        "acknowledged before its dead letter is stored",
        "consumers/projector.py",
        "            await self._bury(dead)\n            await self._settle(",
        "            await self._puller.ack(part.messages)\n"
        "            await self._bury(dead)\n            await self._settle(",
        "tests/projector/test_projector.py::test_nothing_is_acknowledged_before_its_dead_letter_is_stored",
    ),
    Mutation(
        "a malformed message is dropped",
        "consumers/projector.py",
        '                dead.append((message, "malformed", str(exc)))\n',
        "                log.debug(str(exc))\n",
        "tests/projector/test_projector.py::test_malformed_is_buried_whole_and_its_neighbours_pass",
    ),
    Mutation(
        "a rejected event is dropped",
        "consumers/projector.py",
        "            dead += await self._write(events, part)\n",
        "            await self._write(events, part)\n",
        "tests/projector/test_projector.py::test_rejected_is_buried_and_its_neighbours_pass",
    ),
    Mutation(
        "in an outage messages are given back (nak)",
        "consumers/projector.py",
        "        async with self._trials.turns.together():\n            return await self._emit(batch)\n",
        "        async with self._trials.turns.together():\n"
        "            try:\n                return await self._emit(batch)\n"
        "            except SinkUnavailable:\n"
        "                await self._puller._answer(self._in_hand, b'-NAK')\n                raise\n",
        "tests/projector/test_projector.py::test_outage_longer_than_the_ack_wait_loses_and_reorders_nothing",
    ),
    Mutation(
        "a destination that takes nothing has everything buried",
        "consumers/projector.py",
        "    if len(reasons) == len(batch) >= _ALIKE and len(set(reasons.values())) == 1:\n",
        "    if len(reasons) > len(batch):\n",
        "tests/projector/test_refusals.py::test_refused_alike_is_held",
    ),
    Mutation(
        "no heartbeats while holding",
        "consumers/projector.py",
        "            await self._puller.keep_alive(self._in_hand)\n",
        "            await asyncio.sleep(0)\n",
        "tests/projector/test_projector.py::test_outage_longer_than_the_ack_wait_loses_and_reorders_nothing",
    ),
    Mutation(
        "stopping leaves the rest in hand",
        "consumers/projector.py",
        "            while await self.step():\n",
        "            while await self.step() and not self._puller._stopping:\n",
        "tests/faults/test_projector_faults.py::test_terminated_in_the_middle",
    ),
    Mutation(
        "the id of an event without one is made anew at each delivery",
        "noetl_events/ids.py",
        "    return (max(stored_ms - EPOCH_MS, 0) % _MAX_MS) << 22 | sequence % (1 << 22)",
        "    return process_ids()()",
        "tests/projector/test_projector.py::test_event_without_id_gets_one_from_its_message",
    ),
    Mutation(
        "the count of a PubAck is not looked at",
        "noetl_events/jetstream/batch_outcome.py",
        "    if reply.count != expected:\n",
        "    if reply.count < 0:\n",
        "tests/jetstream/test_fast_batch.py::test_anything_but_a_full_count_is_sent_again_plainly",
    ),
    Mutation(
        "no identity header",
        "noetl_events/jetstream/outgoing.py",
        'ID_HEADER: Final = "Nats-Msg-Id"',
        'ID_HEADER: Final = "Noetl-Msg-Id"',
        "tests/sinks/test_nats.py::test_identity_is_one_header",
    ),
    Mutation(
        "what a batch leaves unknown counts as stored",
        "noetl_events/jetstream/sender.py",
        "                self._doubt(left)\n                await self._settle_in_lanes(left)\n",
        "                self._store(left)\n",
        "tests/jetstream/test_fast_batch.py::test_only_what_no_ack_covers_is_sent_again",
    ),
    Mutation(
        "an id of unknown outcome goes by batch again",
        "noetl_events/jetstream/outbox.py",
        "            self._uncertain.add(message.event_id)\n",
        "            self._uncertain.add(0)\n",
        "tests/jetstream/test_publisher.py::test_unknown_outcome_never_goes_by_batch_again",
    ),
    Mutation(
        "sent again without lanes: a message overtakes the one before it",
        "noetl_events/jetstream/sender.py",
        "        for wave in _waves(batch):\n",
        "        for wave in [list(batch)]:\n",
        "tests/jetstream/test_publisher.py::test_second_attempt_keeps_the_order_of_a_lane",
    ),
    Mutation(
        "a PubAck without a sequence counts as stored",
        "noetl_events/jetstream/replies.py",
        "        return Verdict.STORED if reply.seq > 0 else Verdict.AGAIN\n",
        "        return Verdict.STORED\n",
        "tests/jetstream/test_publisher.py::test_id_in_process_is_asked_for_again",
    ),
    Mutation(
        "a timeout says failed instead of unknown",
        "noetl_events/jetstream/sender.py",
        '"unknown whether stored" if message.sent else "not sent"',
        '"not sent"',
        "tests/jetstream/test_publisher.py::test_unknown_outcome_never_goes_by_batch_again",
    ),
    Mutation(
        "an oversized message closes everybody's connection",
        "noetl_events/jetstream/sender.py",
        "            if message.size > limit and not message.is_over():\n",
        "            if len(message.body) > 2 * limit:\n",
        "tests/sinks/test_nats.py::test_rejections_are_told_together",
    ),
    Mutation(
        "a cancelled call is counted as failed for its neighbours",
        "noetl_events/jetstream/outgoing.py",
        "        return self.settled or self.call.done.done()\n",
        "        return self.settled\n",
        "tests/jetstream/test_publisher.py::test_cancelled_call_disturbs_no_other",
    ),
    Mutation(
        "the next holder of a pin goes on without RESET",
        "noetl_events/jetstream/puller.py",
        "            await reset_consumer(self._connection, self.consumer)\n",
        "            await asyncio.sleep(0)\n",
        "tests/projector/test_standby.py::test_one_that_vanishes_is_replaced_in_order",
    ),
    Mutation(
        "rows are inserted unsorted: two projectors lock each other up",
        "consumers/sinks/postgres/rows.py",
        '    rows.sort(key=attrgetter("event_id"))\n',
        "",
        "tests/sinks/test_postgres.py::TestPostgresSink::test_same_rows_from_two_sinks_at_once",
    ),
    Mutation(
        "any conflict drops a row in silence",
        "consumers/sinks/postgres/table.py",
        "f\"ON CONFLICT ({', '.join(_KEY)}) DO NOTHING\"",
        'f"ON CONFLICT DO NOTHING"',
        "tests/sinks/test_postgres.py::TestPostgresSink::test_double_of_another_index_is_not_swallowed",
    ),
    Mutation(
        "a spool forgets its records before the sink behind has them",
        "noetl_events/spool/handover.py",
        "                holding = True\n",
        "                return\n",
        "tests/sinks/test_spool.py::test_emit_needs_no_destination",
    ),
    Mutation(
        "a damaged record of a spool is read",
        "noetl_events/spool/segment.py",
        "    return body if len(body) == length and crc32(body) == checksum else b",
        "    return body if len(body) == length and checksum >= 0 else b",
        "tests/spool/test_journal.py::test_any_flipped_byte_is_found",
    ),
    Mutation(
        "a stream that lost its end is not noticed",
        "noetl_events/spool/watermark.py",
        "        return self.created == earlier.created and self.last_seq >= earlier.last_seq\n",
        "        return self.created == earlier.created\n",
        "tests/sinks/test_spool.py::test_stream_that_lost_its_end_is_given_it_again",
    ),
    Mutation(
        "a stream created again is not noticed",
        "noetl_events/spool/watermark.py",
        "        return self.created == earlier.created and self.last_seq >= earlier.last_seq\n",
        "        return self.last_seq >= earlier.last_seq\n",
        "tests/spool/test_watermark.py::test_what_was_lost_is_noticed",
    ),
    Mutation(
        "ids go back with the clock",
        "noetl_events/ids.py",
        "            if ms > self._last_ms:\n",
        "            if ms != self._last_ms:\n",
        "tests/test_ids.py::test_never_goes_back",
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
        "consumers/gateway/live.py",
        "        self._position = behind or 0\n",
        "        self._position = (behind or -1) + 1\n",
        "tests/gateway/test_stream.py::test_gateway_restarts",
    ),
    Mutation(
        "any token opens the gateway",
        "consumers/gateway/guard.py",
        "        if scheme.lower() != _SCHEME or not any(matches):\n",
        "        if scheme.lower() != _SCHEME or not matches:\n",
        "tests/gateway/test_ingest.py::test_token",
    ),
    Mutation(
        "a browser may take what events hold for a page",
        "consumers/gateway/server.py",
        '        headers=[("x-content-type-options", "nosniff")],\n',
        "",
        "tests/gateway/test_looking.py::test_hostile_letter_is_data",
    ),
    Mutation(
        "events go to the address a name leads to, whatever it is",
        "noetl_events/sinks/http/client.py",
        "                socket_factory=open_socket,\n",
        "",
        "tests/sinks/test_http.py::test_name_that_leads_to_a_metadata_service_holds",
    ),
    Mutation(
        "a segment never gets too old",
        "noetl_events/sinks/recording.py",
        "        if file.length and self._is_old():\n",
        "        if False:\n",
        "tests/sinks/test_recording.py::test_segment_ends_at_its_age",
    ),
)
