"""The writer of a spool's journal: the outcome of a write reaches each of its emitters."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from noetl_events.sinks.spool.writer import JournalWriter

if TYPE_CHECKING:
    from collections.abc import Callable


class Journal:
    """A journal with a bug, until it is mended."""

    def __init__(self) -> None:
        self.is_mended = False
        self.written = b""

    def append(self, records: bytes) -> None:
        """Append *records*."""
        if not self.is_mended:
            raise KeyError("bug")
        self.written += records


class Forwarder:
    """A forwarder that reads nothing."""

    def on_append(self) -> None:
        """Do nothing."""


async def in_thread(call: Callable[..., Any], *args: Any) -> Any:
    """Run *call* in a thread."""
    return await asyncio.to_thread(call, *args)


async def test_bug_of_the_journal_reaches_each_emitter() -> None:
    """An unknown error of a write is raised by each emitter of its records, and the next write succeeds."""
    journal = Journal()
    writer = JournalWriter(journal, Forwarder(), in_thread)  # type: ignore[arg-type]
    for emitting in [asyncio.create_task(writer.write(b"x")) for _ in range(3)]:
        with pytest.raises(KeyError, match="bug"):
            await emitting
    journal.is_mended = True
    await writer.write(b"y")
    await writer.finish()

    assert journal.written == b"y"
