"""FolderSink: the contract, and unfinished files of a crash."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from noetl_events_folder import FolderSink

from noetl_events import decode, encode, open_sink
from noetl_events.testing import SinkContract, make_event

if TYPE_CHECKING:
    from pathlib import Path

    from noetl_events import EventSink, ExecutorEvent


class TestFolderSink(SinkContract):
    """FolderSink keeps every promise."""

    keyed = True

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def open(self) -> EventSink:
        """Return a new sink on the folder of this test, as its URL opens it."""
        return open_sink(f"folder://{self.folder}")

    async def stored(self) -> list[ExecutorEvent]:
        """Return the events in the folder in the order of their ids, because a folder has no order."""
        events = [decode(path.read_bytes()) for path in self.folder.glob("[!.]*.json")]
        return sorted(events, key=lambda event: event.event_id or 0)


async def test_half_a_file_of_a_crash_is_written_anew(tmp_path: Path) -> None:
    """An unfinished file of a crash is no event, and does not prevent the write of its event."""
    name = f"{make_event(1).execution_id}-1.json"
    (tmp_path / f".{name}.part").write_bytes(encode(make_event(1))[:10])
    sink = FolderSink(tmp_path)
    await sink.emit(make_event(1))
    await sink.aclose()

    assert (tmp_path / name).read_bytes() == encode(make_event(1))
