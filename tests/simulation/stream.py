"""
A simulated stream: plain publishes, fast-ingest and atomic batches as in nats-server 2.15 (ADR-50).

With a quorum a message is stored when it arrives.  Without a quorum it is staged: its id is known and not stored.  A
change of leader stores or drops the staged messages, drops every batch, and answers no waiting client.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.simulation.network import MAX_PAYLOAD

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.network import Command, Server


class Stored:
    """A message in the stream."""

    def __init__(self, command: Command) -> None:
        self.id = command.headers.get("Nats-Msg-Id", "")
        self.data = command.data
        self.sequence = 0


class _Fast:
    """A fast-ingest batch: the number of its accepted messages, and the ids of the new ones."""

    def __init__(self) -> None:
        self.count = 0
        self.ids: set[str] = set()


class Stream:
    """
    A simulated stream.

    Args:
        server: server of the stream.
        prefix: prefix of its subjects.
        batches: "new" accepts batches, "disabled" refuses them, "old" does not know them.

    """

    def __init__(self, server: Server, prefix: str, *, batches: str = "new") -> None:
        self.stored: list[Stored] = []
        self.batches = batches
        self.has_quorum = True
        self.has_leader = True
        self.is_full = False
        self.drops: Callable[[], bool] = never
        """A function that returns true if the queue in front of the stream has no room for the message."""

        self._ids: dict[str, int] = {}
        self._staged: dict[str, Stored] = {}
        self._waiting: list[tuple[set[str], Command, dict[str, Any]]] = []
        self._fast: dict[str, _Fast] = {}
        self._atomic: dict[str, list[Command]] = {}
        server.route(prefix, self._take)

    def change_leader(self, *, keep_staged: bool) -> None:
        """Elect another leader: batches are dropped, and waiting clients get no answer."""
        staged, self._staged = list(self._staged.values()), {}
        for message in staged if keep_staged else ():
            self._append(message)
        self._waiting.clear()
        self._fast.clear()
        self._atomic.clear()
        self.has_quorum = self.has_leader = True

    def regain_quorum(self) -> None:
        """Store the staged messages, and answer the clients that wait for them."""
        self.has_quorum = True
        staged, self._staged = list(self._staged.values()), {}
        for message in staged:
            self._append(message)
        waiting, self._waiting = self._waiting, []
        for _, command, answer in waiting:
            self._answer(command, answer | ({} if "type" in answer else self._where(command)))

    def _take(self, command: Command) -> None:
        if not self.has_leader:
            command.client.answer(command.reply, headers={"Status": "503"})
        elif self.drops():
            self._answer(command, _error(10167))
        elif command.reply.endswith(".$FI") and self.batches != "old":
            self._take_fast(command)
        elif "Nats-Batch-Id" in command.headers and self.batches != "old":
            self._take_atomic(command)
        elif command.headers.get("Nats-Expected-Stream", "S") != "S":
            self._answer(command, _error(10060))
        else:
            self._take_plain(command)

    def _take_plain(self, command: Command) -> None:
        message = Stored(command)
        if (answer := self._objection(message)) is not None:
            self._answer(command, answer)
            return
        self._store(message)
        self._answer_when_stored(command, {message.id}, {"stream": "S"} | self._where(command))

    def _take_fast(self, command: Command) -> None:
        _, token, flow, _, seq, op = command.reply.removesuffix(".$FI").rsplit(".", 5)
        self._step_fast(command, token, int(flow), int(seq), int(op))

    def _step_fast(self, command: Command, token: str, flow: int, seq: int, op: int) -> None:
        if self.batches == "disabled":
            self._answer(command, _error(10205))
        elif op and token not in self._fast:
            self._answer(command, _error(10208))
        elif op == 4 and seq <= self._fast[token].count:
            self._answer(command, {"type": "ack", "seq": seq - seq % flow, "msgs": flow})
        elif op == 4 or seq != self._fast.setdefault(token, _Fast()).count + 1:
            self._answer(command, {"type": "gap", "last_seq": self._fast[token].count + 1, "seq": seq + (op == 4)})
            self._end_fast(command, token)
        elif op == 3:
            self._end_fast(command, token)
        elif (answer := self._append_fast(command, self._fast[token])) is not None:
            self._answer(command, {"type": "err", "seq": seq} | answer)
            self._end_fast(command, token)
        elif op == 2:
            self._end_fast(command, token)
        elif seq == 1 or seq % flow == 0:
            ack = {"type": "ack", "seq": seq if seq % flow == 0 else 0, "msgs": flow}
            self._answer_when_stored(command, self._fast[token].ids, ack)

    def _append_fast(self, command: Command, batch: _Fast) -> dict[str, Any] | None:
        message = Stored(command)
        # The server's flaw: a staged id counts as a duplicate, as if it were stored.
        if message.id not in self._ids and message.id not in self._staged:
            if (answer := self._objection(message)) is not None:
                return answer
            self._store(message)
            batch.ids.add(message.id)
        batch.count += 1
        return None

    def _end_fast(self, command: Command, token: str) -> None:
        batch = self._fast.pop(token)
        sequence = len(self.stored) if batch.ids else 0
        answer = {"stream": "S", "seq": sequence, "batch": token, "count": batch.count}
        self._answer_when_stored(command, batch.ids, answer)

    def _take_atomic(self, command: Command) -> None:
        token, seq = command.headers["Nats-Batch-Id"], int(command.headers["Nats-Batch-Sequence"])
        if _is_too_large(command.data):
            self._atomic.pop(token, None)
            self._answer(command, _error(10054))
            return
        batch = self._atomic.setdefault(token, []) if seq == 1 else self._atomic.get(token)
        if batch is not None and len(batch) == seq - 1:
            batch.append(command)
        else:
            self._atomic.pop(token, None)
        if "Nats-Batch-Commit" in command.headers:
            self._commit(command, self._atomic.pop(token, None))

    def _commit(self, command: Command, batch: list[Command] | None) -> None:
        messages = [Stored(each) for each in batch or ()]
        if self.batches == "disabled":
            self._answer(command, _error(10174))
        elif not messages:
            self._answer(command, _error(10176))
        elif any(message.id in self._ids for message in messages):
            self._answer(command, _error(10201))
        elif any(message.id in self._staged for message in messages):
            self._answer(command, _error(10158))
        elif self.is_full:
            self._answer(command, _error(10077))
        else:
            for message in messages:
                self._store(message)
            count = {"stream": "S", "batch": command.headers["Nats-Batch-Id"], "count": len(messages)}
            self._answer_when_stored(command, {message.id for message in messages}, count | self._where(command))

    def _objection(self, message: Stored) -> dict[str, Any] | None:
        """Return the answer to a *message* that is not stored now, or None."""
        if message.id in self._ids:
            return {"stream": "S", "seq": self._ids[message.id], "duplicate": True}
        if message.id in self._staged:
            return _error(10158) if self.batches == "new" else {"stream": "S", "seq": 0, "duplicate": True}
        if _is_too_large(message.data):
            return _error(10054)
        return _error(10077) if self.is_full else None

    def _store(self, message: Stored) -> None:
        if self.has_quorum:
            self._append(message)
        else:
            # A message without an id is never a duplicate.
            self._staged[message.id or f"none{len(self._staged)}"] = message

    def _append(self, message: Stored) -> None:
        self.stored.append(message)
        message.sequence = len(self.stored)
        if message.id:
            self._ids[message.id] = message.sequence

    def _where(self, command: Command) -> dict[str, int]:
        sequence = self._ids.get(command.headers.get("Nats-Msg-Id", ""))
        return {"seq": sequence or len(self.stored)}

    def _answer_when_stored(self, command: Command, ids: set[str], answer: dict[str, Any]) -> None:
        if self.has_quorum or not ids & self._staged.keys():
            self._answer(command, answer)
        else:
            self._waiting.append((ids, command, answer))

    def _answer(self, command: Command, answer: dict[str, Any]) -> None:
        if command.reply:
            command.client.answer(command.reply, json.dumps(answer).encode())


def never() -> bool:
    """Drop nothing."""
    return False


def _is_too_large(data: bytes) -> bool:
    return len(data) > MAX_PAYLOAD * 3 // 4


def _error(code: int) -> dict[str, Any]:
    return {"error": {"code": 400, "err_code": code, "description": "no"}, "stream": "S", "seq": 0}
