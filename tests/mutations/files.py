"""Bugs of the spool and of files of events."""

from __future__ import annotations

from tests.mutations.mutation import Mutation

FILES = (
    Mutation(
        "a spool forgets its records before the sink behind has them",
        "noetl_events/sinks/spool/forwarder.py",
        "                self._size = max(min(self._size, len(bodies)) // 2, _SMALLEST)\n",
        "                return True\n",
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
        "tests/sinks/test_spool.py::test_stream_that_lost_its_end_is_given_it_again",
    ),
    Mutation(
        "a stream created again is not noticed",
        "noetl_events/jetstream/streams.py",
        "        return self.created == earlier.created and self.last_seq >= earlier.last_seq\n",
        "        return self.last_seq >= earlier.last_seq\n",
        "tests/spool/test_watermark.py::test_what_was_lost_is_noticed",
    ),
    Mutation(
        "events before a stream's first answer count as kept",
        "noetl_events/sinks/spool/progress.py",
        "if known else bool(self.marks)\n",
        "if known else False\n",
        "tests/spool/test_handover.py::test_what_was_lost_before_the_first_answer_comes_again",
    ),
    Mutation(
        "a second close of a spool is cancelled",
        "noetl_events/sinks/spool/sink.py",
        "        async with self._closing:\n            await self._release()\n",
        "        await self._release()\n",
        "tests/spool/test_handover.py::test_closed_twice_at_once",
    ),
    Mutation(
        "an old acknowledgement counts as kept",
        "noetl_events/sinks/spool/forwarder.py",
        "        sure, now = not self._is_stale(), None\n",
        "        sure, now = True, None\n",
        "tests/spool/test_handover.py::test_what_was_lost_before_we_could_look_comes_again",
    ),
    Mutation(
        "a spool stores before it looks, however long ago it did",
        "noetl_events/sinks/spool/forwarder.py",
        "            if _is_long_ago(self._looked_at) and not await self._look(self.position):\n",
        "            if self._size < 0:\n",
        "tests/spool/test_handover.py::test_what_was_lost_while_we_were_halted_comes_again",
    ),
    Mutation(
        "a torn tail ends the spool",
        "noetl_events/sinks/spool/journal.py",
        "            self._pass_over(position)\n            position = ",
        "            return [], position\n            position = ",
        "tests/spool/test_journal.py::test_torn_tail_is_passed_over",
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
