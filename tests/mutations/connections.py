"""Bugs planted in the way to a server, and in what comes from it."""

from __future__ import annotations

from tests.mutations.mutation import Mutation

CONNECTIONS = (
    Mutation(
        "a password goes to a server that offers no TLS",
        "noetl_events/jetstream/transport.py",
        '        if not self._is_encrypted or wire.is_encrypted or info.get("tls_required"):\n',
        "        if True:\n",
        "tests/jetstream/test_tls.py::test_tls_switched_off_between_two_connections",
    ),
    Mutation(
        "TLS that a server offers and does not require is not used",
        "noetl_events/jetstream/transport.py",
        '            return info | {"tls_required": True}\n',
        "            return info\n",
        "tests/jetstream/test_tls.py::test_optional_tls_is_used",
    ),
    Mutation(
        "a password of a URL is told as it is written",
        "noetl_events/jetstream/server_urls.py",
        '        return {"user": unquote(user, errors="strict"), "password": unquote(password, errors="strict")}\n',
        '        return {"user": user, "password": password}\n',
        "tests/jetstream/test_server_urls.py::test_any_password_can_be_said",
    ),
    Mutation(
        "the first address of a name is waited for",
        "noetl_events/jetstream/tcp.py",
        "                pause = _NEXT_ADDRESS if left else None\n",
        "                pause = None\n",
        "tests/jetstream/test_reaching.py::test_name_whose_first_address_is_dead",
    ),
    Mutation(
        "discovered servers are tried as often as they are many",
        "noetl_events/jetstream/server_pool.py",
        "(discovered if discovered and (self._last in self._own or not own) else own)[0]",
        "in_turn[0]",
        "tests/jetstream/test_server_pool.py::test_configured_server_is_tried_as_often_as_all_that_were_discovered",
    ),
    Mutation(
        "a connection that ends at once is made again at once",
        "noetl_events/jetstream/server_pool.py",
        "        if is_refused or not was_lasting:\n",
        "        if False:\n",
        "tests/jetstream/test_closed_by_server.py::test_more_subscriptions_than_allowed",
    ),
    Mutation(
        "what a callback raises ends the connection",
        "noetl_events/jetstream/direct_client.py",
        "            taker.on_error(exc)\n",
        "            raise\n",
        "tests/jetstream/test_direct_client.py::test_error_of_a_callback_does_not_end_the_connection",
    ),
    Mutation(
        "any reply makes a message a delivery",
        "noetl_events/jetstream/pull_receiver.py",
        "        if not self._is_delivery(message.reply):\n",
        "        if False:\n",
        "tests/jetstream/test_strays.py::test_puller_reads_on",
    ),
    Mutation(
        "the answer to a cancelled flush ends the connection",
        "noetl_events/jetstream/direct_client.py",
        "            self._pongs[0] = asyncio.get_running_loop().create_future()\n",
        "            pass\n",
        "tests/jetstream/test_direct_client.py::test_answer_to_a_cancelled_flush_harms_nobody",
    ),
    Mutation(
        "a projector that waits for NATS is not told to stop",
        "consumers/projector.py",
        "            self._pulling.reschedule(asyncio.get_running_loop().time())\n",
        "            pass\n",
        "tests/settings/test_stopping.py::test_stop_before_nats_was_reached",
    ),
    Mutation(
        "a second signal is a failure with nothing in hand",
        "consumers/daemon.py",
        "    if not in_hand:\n",
        "    if False:\n",
        "tests/settings/test_stopping.py::test_second_signal_ends_at_once",
    ),
    Mutation(
        "tail goes on by sequence in a stream that was created anew",
        "noetl_events/jetstream/tail.py",
        "            self.last = 0\n        elif",
        "            pass\n        elif",
        "tests/cli/test_tail.py::test_stream_is_created_anew",
    ),
    Mutation(
        "a flush covers nothing that waits for the writing task",
        "noetl_events/jetstream/direct_client.py",
        "        await super().flush(timeout)\n        await super().flush(timeout)\n",
        "        await super().flush(timeout)\n",
        "tests/jetstream/test_direct_client.py::test_flush_covers_what_was_written_before_it",
    ),
    Mutation(
        "of two servers that were tried at one time any is next",
        "noetl_events/jetstream/server_pool.py",
        "(turns.get(candidate.uri.netloc, -1), random.random())",
        "(candidate.uri.netloc in turns, random.random())",
        "tests/jetstream/test_server_pool.py::test_servers_of_a_list_are_tried_in_turn",
    ),
)
