"""Bugs planted in what is done about consumers that others made or edited."""

from __future__ import annotations

from tests.mutations.mutation import Mutation

_EDITED = "tests/border/test_edited_consumer.py"

CONSUMERS = (
    Mutation(
        "a field that is not declared is not compared",
        "noetl_events/jetstream/consumer_config.py",
        "        if (actual := config.get(name) or field.unset) != wanted.get(name, field.unset)\n",
        "        if (actual := config.get(name) or field.unset) != wanted.get(name, actual)\n",
        f"{_EDITED}::test_standby_switched",
    ),
    Mutation(
        "an edit is not noticed while the consumer is read",
        "noetl_events/jetstream/consumer_view.py",
        "        return essence_of(info.config) == self._config\n",
        "        return bool(info.config)\n",
        f"{_EDITED}::test_noticed_without_a_message",
    ),
    Mutation(
        "what a consumer has passed over is not looked for",
        "noetl_events/jetstream/consumer_position.py",
        "        return self._gaps.find(messages) if self._gaps is not None else None\n",
        "        return None\n",
        f"{_EDITED}::test_moved_by_hand",
    ),
    Mutation(
        "a gap is always taken for messages that were removed",
        "noetl_events/jetstream/gaps.py",
        "    return max(gap.before - first - removed - gap.elsewhere, 0)\n",
        "    return 0\n",
        f"{_EDITED}::test_moved_by_hand",
    ),
    Mutation(
        "a consumer found edited is not set back",
        "noetl_events/jetstream/consumer_position.py",
        "                await self._set_back(self._restart)\n",
        "                pass\n",
        f"{_EDITED}::test_restarted_while_it_is_edited",
    ),
    Mutation(
        "a message whose body the server left out is buried",
        "noetl_events/jetstream/pull_receiver.py",
        "        elif not message.data and self._position.lacks_body(message):\n",
        "        elif not message.reply:\n",
        f"{_EDITED}::test_message_without_its_body",
    ),
    Mutation(
        "limits on requests are not kept to",
        "noetl_events/jetstream/consumer_view.py",
        "            self.limits = limits\n",
        "            pass\n",
        f"{_EDITED}::test_limits_are_kept_to",
    ),
    Mutation(
        "a refused request is sent again at once",
        "noetl_events/jetstream/pull_state.py",
        "        if NO_ROOM in text or not (self._is_accepted or is_known):\n",
        "        if not words:\n",
        f"{_EDITED}::test_no_room_for_a_request",
    ),
    Mutation(
        "messages that a consumer gave up on stay where they are",
        "noetl_events/jetstream/consumer_position.py",
        "        return not again.num_ack_pending and again.ack_floor == info.ack_floor\n",
        "        return False\n",
        "tests/border/test_given_up.py::test_given_up_while_no_projector_reads",
    ),
    Mutation(
        "what a projector's own consumer gave up on is buried",
        "consumers/dead_letters/exhausted.py",
        "            return is_of_a_projector((await show_consumer(self._connection, declared)).config)\n",
        "            return False\n",
        "tests/border/test_given_up.py::test_given_up_is_left_to_its_own_projector",
    ),
    Mutation(
        "a reader asks for more than the server allows",
        "noetl_events/jetstream/ephemeral.py",
        '        self._most = info.config.get("max_batch", 0)\n',
        "        self._most = 0\n",
        "tests/border/test_reader_limits.py::test_requests_as_large_as_the_server_allows",
    ),
    Mutation(
        "a paused consumer looks well",
        "noetl_events/jetstream/consumer_view.py",
        "        self._paused_until = time.monotonic() + info.pause_remaining / 1e9 if info.paused else 0.0\n",
        "        self._paused_until = 0.0\n",
        f"{_EDITED}::test_paused",
    ),
    Mutation(
        "that another puller has set the consumer back is not noticed",
        "noetl_events/jetstream/gaps.py",
        "            return Gap(self._last.stream_seq, delivery.sequence, delivery.number - 1, is_renumbered=True)\n",
        "            deliveries = delivery.number\n",
        "tests/jetstream/test_gaps.py::test_consumer_that_counts_anew",
    ),
    Mutation(
        "a message that comes for the tenth time hides a gap",
        "noetl_events/jetstream/gaps.py",
        "reply[: tail + 3]",
        "reply[: tail + 2]",
        "tests/jetstream/test_gaps.py::test_message_that_comes_again_hides_no_gap",
    ),
    Mutation(
        "a message that comes again takes a message of the stream",
        "noetl_events/jetstream/gaps.py",
        "Position(self._last.stream_seq, self._last.consumer_seq + 1)",
        "Position(delivery.sequence, delivery.number)",
        "tests/jetstream/test_gaps.py::test_message_that_comes_again_hides_no_gap",
    ),
    Mutation(
        "a message that was removed behind a gap hides one in it",
        "noetl_events/jetstream/gaps.py",
        "first <= sequence < gap.before for",
        "first <= sequence <= gap.before for",
        "tests/jetstream/test_gaps.py::test_what_the_stream_still_has",
    ),
    Mutation(
        "the last of several places to deliver again from counts",
        "noetl_events/jetstream/consumer_position.py",
        "min(self._restart or sequence, sequence)",
        "sequence",
        "tests/jetstream/test_consumer_position.py::test_earliest_start_counts",
    ),
    Mutation(
        "a consumer is set back to behind what another puller waits for",
        "noetl_events/jetstream/consumer_position.py",
        "start=min(start, acked + 1))\n        log",
        "start=start)\n        log",
        "tests/jetstream/test_consumer_position.py::test_another_puller_has_set_it_back_further",
    ),
    Mutation(
        "where to deliver again from is forgotten before the server was told",
        "noetl_events/jetstream/consumer_position.py",
        "        # Another puller may just",
        "        self._restart, self._dropped, self._kept = 0, 0, None\n        # Another puller may just",
        "tests/jetstream/test_consumer_position.py::test_cancelled_while_it_is_set_back",
    ),
    Mutation(
        "the last of several messages without a body is the first to come again",
        "noetl_events/jetstream/consumer_position.py",
        "self._dropped = min(self._dropped or sequence, sequence)",
        "self._dropped = sequence",
        "tests/jetstream/test_consumer_position.py::test_messages_without_their_bodies_come_again",
    ),
    Mutation(
        "what was acknowledged in a stream that lost its end stays so",
        "noetl_events/jetstream/consumer_position.py",
        "        self._acked = min(self._acked, kept)\n",
        "",
        "tests/jetstream/test_consumer_position.py::test_stream_that_is_what_it_was_up_to_a_place",
    ),
    Mutation(
        "a consumer that is found edited is set back at each look",
        "noetl_events/jetstream/consumer_position.py",
        "        self._is_well = False\n        try",
        "        try",
        "tests/jetstream/test_consumer_position.py::test_found_edited_again_and_again",
    ),
)
