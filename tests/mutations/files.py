"""Bugs of the spool and of files of events."""

from __future__ import annotations

from tests.mutations.mutation import Mutation

FILES = (
    Mutation(
        "a spool forgets its records before the sink behind has them",
        "noetl_events/sinks/spool/forwarder.py",
        "                if not await self._confirm(self.position):\n                    return\n",
        "                await self._confirm(end)\n                return\n",
        "tests/sinks/test_spool.py::test_emit_needs_no_destination",
    ),
    Mutation(
        "a damaged record of a spool is read",
        "noetl_events/sinks/spool/journal.py",
        "    return body if len(body) == length and crc32(body) == checksum else b",
        "    return body if len(body) == length and checksum >= 0 else b",
        "tests/spool/test_journal.py::test_any_flipped_byte_is_found",
    ),
    Mutation(
        "a stream that lost its end is not noticed",
        "noetl_events/jetstream/streams.py",
        "        return self.created == earlier.created and self.last_seq >= earlier.last_seq\n",
        "        return self.created == earlier.created\n",
        "tests/sinks/test_spool.py::test_stream_that_lost_its_end_gets_it_again",
    ),
    Mutation(
        "a stream created again is not noticed",
        "noetl_events/jetstream/streams.py",
        "        return self.created == earlier.created and self.last_seq >= earlier.last_seq\n",
        "        return self.last_seq >= earlier.last_seq\n",
        "tests/spool/test_stream_position.py::test_loss_is_found",
    ),
    Mutation(
        "events before a stream's first answer count as kept",
        "noetl_events/sinks/spool/replay_log.py",
        "if known else bool(self.checkpoints)\n",
        "if known else False\n",
        "tests/spool/test_forwarder.py::test_loss_before_the_first_answer_is_forwarded_again",
    ),
    Mutation(
        "a second close of a spool is cancelled",
        "noetl_events/sinks/spool/sink.py",
        "        async with self._closing:\n            await self._release()\n",
        "        await self._release()\n",
        "tests/spool/test_forwarder.py::test_second_close_waits_for_the_first",
    ),
    Mutation(
        "an old acknowledgement counts as kept",
        "noetl_events/sinks/spool/forwarder.py",
        "        is_sure = not is_late and retry.attempts == 1\n",
        "        is_sure = retry.attempts == 1\n",
        "tests/spool/test_forwarder.py::test_loss_before_a_late_check_is_forwarded_again",
    ),
    Mutation(
        "an acknowledgement before an outage counts as kept",
        "noetl_events/sinks/spool/forwarder.py",
        "        is_sure = not is_late and retry.attempts == 1\n",
        "        is_sure = not is_late\n",
        "tests/spool/test_forwarder.py::test_stream_that_cannot_be_checked_gets_no_new_events",
    ),
    Mutation(
        "a full spool refuses an event instead of deleting acknowledged ones",
        "noetl_events/sinks/spool/writer.py",
        "            self._journal.make_room(self._forwarder.position)\n",
        "",
        "tests/sinks/test_spool.py::test_full_spool_deletes_acknowledged_events_first",
    ),
    Mutation(
        "a spool does not announce an append to its forwarder",
        "noetl_events/sinks/spool/writer.py",
        "            self._forwarder.on_append()\n",
        "",
        "tests/sinks/test_spool.py::test_emit_needs_no_destination",
    ),
    Mutation(
        "a malformed record of a spool is dropped",
        "noetl_events/sinks/spool/forwarder.py",
        "        await self._store_rejected(malformed)\n        return events\n",
        "        return events\n",
        "tests/spool/test_forwarder.py::test_malformed_record_is_stored_as_rejected",
    ),
    Mutation(
        "a spool emits before it checks the stream, however old the last check is",
        "noetl_events/sinks/spool/forwarder.py",
        "            if _is_long_ago(self._checked_at) and not await self._confirm(self.position):\n",
        "            if self._part < 0:\n",
        "tests/spool/test_forwarder.py::test_loss_while_the_process_was_suspended_is_forwarded_again",
    ),
    Mutation(
        "a torn tail ends the spool",
        "noetl_events/sinks/spool/journal.py",
        "            self._skip_damage(position)\n            position = ",
        "            return [], position\n            position = ",
        "tests/spool/test_journal.py::test_torn_tail_is_skipped",
    ),
    Mutation(
        "a spool does not sync",
        "noetl_events/sinks/append_file.py",
        "            self._write(data)\n            self._sync(self._file.fileno())\n",
        "            self._write(data)\n",
        "tests/spool/test_journal.py::test_failed_sync_leaves_no_trace",
    ),
    Mutation(
        "a torn last line of a file is left",
        "noetl_events/sinks/jsonl.py",
        "        file.truncate(good)\n",
        "        file.truncate(good + len(torn))\n",
        "tests/sinks/test_jsonl_faults.py::test_torn_tail_is_cut_off_wherever_it_was_cut",
    ),
    Mutation(
        "a segment never gets too old",
        "noetl_events/sinks/recording.py",
        "        if file.length and self._is_old():\n",
        "        if False:\n",
        "tests/sinks/test_recording.py::test_segment_ends_at_its_age",
    ),
)
