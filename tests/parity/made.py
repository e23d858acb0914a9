"""Random events with many edge cases, identical on every Python version."""

from __future__ import annotations

import math
import struct
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any, Final

from noetl_events import ExecutorEvent

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHARS: Final = 'abZ0 "\\/\0\b\n\t\x1f\x7féł日\u2028\ufffd\uffff👩\U0010ffff<&{[,'
_MOMENT: Final = datetime(2026, 5, 31, 23, 59, 59, tzinfo=UTC)
_EDGES: Final = (
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    _MOMENT,
)
_IDS: Final = (2**63 - 1, -(2**63), 0, 2**53 - 1, 2**53, 2**53 + 1, -1)


def made_events(count: int, seed: int = 1) -> Iterator[ExecutorEvent]:
    """Yield *count* events."""
    made = _Made(seed)
    return (made.event() for _ in range(count))


class _Made:
    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def below(self, limit: int) -> int:
        # Python may change the methods of `random`, but not its bits.
        return self._random.getrandbits(64) % limit

    def id(self) -> int:
        edge = self.below(2 * len(_IDS))
        return _IDS[edge] if edge < len(_IDS) else self._random.getrandbits(64) - 2**63

    def text(self) -> str:
        return "".join(_CHARS[self.below(len(_CHARS))] for _ in range(self.below(9)))

    def time(self) -> datetime:
        edge = self.below(2 * len(_EDGES))
        if edge < len(_EDGES):
            return _EDGES[edge]
        step = (1_000_000, 1_000, 1)[self.below(3)]
        return _MOMENT + timedelta(microseconds=self.below(10**15) // step * step)

    def number(self) -> int | float:
        match self.below(4):
            case 0:
                return self._random.getrandbits(64)
            case 1:
                return self.id()
            case 2:
                return self.below(100) / 8
            case _:
                [number] = struct.unpack("<d", self._random.getrandbits(64).to_bytes(8, "little"))
                return number if math.isfinite(number) else 0.0

    def value(self, room: int) -> Any:
        match self.below(8 if room else 6):
            case 0:
                return None
            case 1:
                return self.below(2) == 0
            case 2 | 3:
                return self.text()
            case 4 | 5:
                return self.number()
            case 6:
                return [self.value(room - 1) for _ in range(self.below(4))]
            case _:
                return {self.text(): self.value(room - 1) for _ in range(self.below(4))}

    def event(self) -> ExecutorEvent:
        return ExecutorEvent(
            execution_id=self.id(),
            event_type=self.text(),
            step=self.text(),
            status=self.text(),
            created_at=self.time(),
            context=self.value(3),
            event_id=self.id() if self.below(2) else None,
            worker_id=self.text() if self.below(2) else None,
            meta=self.value(2) if self.below(2) else None,
        )
