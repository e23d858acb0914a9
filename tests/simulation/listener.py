"""A subscriber of the events that is no stream, and answers a publisher at random."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tests.simulation.network import Command

_FOREIGN: Final[list[dict[str, Any]]] = [
    {"seq": 1},
    {"ok": True},
    {"stream": "audit", "seq": 7},
    {"stream": "audit", "seq": 7, "batch": "b", "count": 3},
    {"stream": "audit", "seq": 0, "error": {"code": 503, "err_code": 10077, "description": "full"}},
    {"stream": "S", "domain": "hub", "seq": 7},
    {"stream": "S", "domain": "hub", "seq": 7, "duplicate": True},
    {"type": "ack", "seq": 3, "msgs": 1},
    {"type": "gap", "last_seq": 1, "seq": 3},
    {"error": {"code": 400, "err_code": 10208, "description": "of no stream"}},
]


class Listener:
    """
    A subscriber that answers some messages.

    Args:
        seed: seed of its own random generator, apart from the run's.

    """

    def __init__(self, seed: int) -> None:
        self._draw = Random(f"listener of {seed}")
        self._share = self._draw.choice([0.0, 0.0, 0.1, 1.0])

    def hear(self, command: Command) -> None:
        """Answer *command*, or ignore it."""
        if command.reply and self._draw.random() < self._share:
            command.client.answer(command.reply, json.dumps(self._draw.choice(_FOREIGN)).encode())
