"""The journal of a spool: appended records are readable, whatever a crash left behind them."""

from __future__ import annotations

import errno
import os
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetl_events import SinkUnavailable
from noetl_events.sinks.spool.journal import Journal, Position, SpoolFull, bodies, is_torn, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGE = 2**30


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Return an empty journal."""
    opened = Journal(tmp_path, max_bytes=LARGE)
    yield opened
    opened.close()


def read_all(journal: Journal, start: Position | None = None) -> list[bytes]:
    """Return all bodies after *start*, a few at a time."""
    found: list[bytes] = []
    few, position = journal.read(start or journal.start, 3)
    while few:
        found += few
        few, position = journal.read(position, 3)
    return found


def reopen(path: Path, *, max_bytes: int = LARGE, segment_bytes: int = LARGE) -> Journal:
    """Open the journal of another process after its crash."""
    return Journal(path, max_bytes=max_bytes, segment_bytes=segment_bytes)


def test_what_is_appended_is_read_in_order(journal: Journal) -> None:
    """Records are read in their order, from the start or from any position in between."""
    for number in range(10):
        journal.append(pack(b"%d" % number))
    _, middle = journal.read(journal.start, 4)

    assert read_all(journal) == [b"%d" % number for number in range(10)]
    assert read_all(journal, middle) == [b"%d" % number for number in range(4, 10)]


def test_record_larger_than_a_read(journal: Journal) -> None:
    """A record of several mebibytes is read whole."""
    large = os.urandom(3 * 2**20)
    journal.append(pack(b"small") + pack(large) + pack(b"small"))

    assert read_all(journal) == [b"small", large, b"small"]


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.data())
def test_any_cut_leaves_a_prefix(records: list[bytes], data: st.DataObject) -> None:
    """A run of records cut anywhere reads as the complete ones before the cut, and a torn rest."""
    whole = b"".join(map(pack, records))
    cut = data.draw(st.integers(0, len(whole)))
    found = list(unpack(whole[:cut]))
    end = found[-1][0] if found else 0

    assert [body for _, body in found] == records[: len(found)]
    assert len(whole) == cut or len(found) < len(records)
    assert end == cut or is_torn(whole[end:cut])


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=8), st.data())
def test_any_flipped_byte_is_found(records: list[bytes], data: st.DataObject) -> None:
    """A damaged record is never read as another one."""
    damaged = bytearray(b"".join(map(pack, records)))
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] ^= data.draw(st.integers(1, 255))
    found = [body for _, body in unpack(bytes(damaged))]

    assert found == records[: len(found)]
    assert len(found) < len(records)


@pytest.mark.parametrize("rest", [b"\x05", b"\x05\x00\x00\x00\x01\x02\x03\x04ab", bytes(5000)])
def test_torn_tail_is_skipped(tmp_path: Path, rest: bytes) -> None:
    """A truncated record and unwritten blocks are skipped; records after the next start are read."""
    journal = reopen(tmp_path)
    journal.append(pack(b"before"))
    journal.close()
    [segment] = tmp_path.glob("*.segment")
    with segment.open("ab") as file:
        file.write(rest)
    journal = reopen(tmp_path)
    journal.append(pack(b"after"))

    assert read_all(journal) == [b"before", b"after"]
    assert not [*tmp_path.glob("*.damaged")]
    journal.close()


def test_damage_is_kept_and_skipped(tmp_path: Path) -> None:
    """A record with a wrong checksum ends its segment; the bytes behind it are kept, and the next segment is read."""
    journal = reopen(tmp_path)
    journal.append(pack(b"first") + pack(b"second") + pack(b"third"))
    journal.close()
    [segment] = tmp_path.glob("*.segment")
    segment.write_bytes(segment.read_bytes().replace(b"second", b"sec0nd"))
    journal = reopen(tmp_path)
    journal.append(pack(b"fourth"))

    assert read_all(journal) == [b"first", b"fourth"]
    [damaged] = tmp_path.glob("*.damaged")
    assert damaged.read_bytes().endswith(pack(b"third"))
    journal.close()


def test_damaged_length_is_no_torn_tail(tmp_path: Path) -> None:
    """A length beyond the file's end looks like a truncated write, except for the records behind it."""
    journal = reopen(tmp_path)
    journal.append(pack(b"first") + pack(b"second") + pack(b"third"))
    journal.close()
    [segment] = tmp_path.glob("*.segment")
    content = bytearray(segment.read_bytes())
    content[len(pack(b"first")) + 3] ^= 1
    segment.write_bytes(content)
    journal = reopen(tmp_path)

    assert read_all(journal) == [b"first"]
    [damaged] = tmp_path.glob("*.damaged")
    assert damaged.read_bytes().endswith(pack(b"third"))
    journal.close()


def test_nothing_is_appended_behind_damage(tmp_path: Path) -> None:
    """A damaged record in the current segment does not hide records appended after it was noticed."""
    synced: list[str] = []
    journal = Journal(tmp_path, max_bytes=LARGE, sync=lambda descriptor: synced.append(_path_of(descriptor)))
    journal.append(pack(b"first") + pack(b"second") + pack(b"third"))
    [segment] = tmp_path.glob("*.segment")
    segment.write_bytes(segment.read_bytes().replace(b"second", b"sec0nd"))
    found = read_all(journal)
    journal.append(pack(b"fourth"))

    assert found == [b"first"]
    assert read_all(journal, journal.start) == [b"first", b"fourth"]
    assert str(segment.with_suffix(".damaged")) in synced
    journal.close()


def test_folder_is_durable(tmp_path: Path) -> None:
    """The entry of a new folder is synced too: otherwise the synced files in it would be lost."""
    synced: list[str] = []
    journal = Journal(tmp_path / "spool", max_bytes=LARGE, sync=lambda each: synced.append(_path_of(each)))

    assert str(tmp_path) in synced
    journal.close()


def _path_of(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


def test_failed_opening_releases_the_lock(tmp_path: Path) -> None:
    """A folder that could not be opened because of a full disk can be opened once there is room."""

    def refuse(descriptor: int) -> None:
        if _path_of(descriptor).endswith(".segment"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(SinkUnavailable, match="No space left"):
        Journal(tmp_path, max_bytes=LARGE, sync=refuse)
    reopen(tmp_path).close()


def test_failed_deletion_is_unavailable(tmp_path: Path) -> None:
    """An append fails if its new segment does not fit on the disk, and no record is lost."""
    refusing = False

    def sync(_: int) -> None:
        if refusing:
            raise OSError(errno.EIO, "Input/output error")

    journal = Journal(tmp_path, max_bytes=LARGE, sync=sync)
    journal.append(pack(b"here"))
    refusing = True
    with pytest.raises(SinkUnavailable, match="Input/output error"):
        journal.make_room(journal.end)
    refusing = False

    assert read_all(journal) == [b"here"]
    journal.close()


def test_full_journal_is_unchanged(tmp_path: Path) -> None:
    """A journal at its size limit refuses appends; with room again it accepts them."""
    journal = reopen(tmp_path, max_bytes=100, segment_bytes=20)
    journal.append(pack(bytes(40)))
    journal.append(pack(bytes(20)))
    with pytest.raises(SpoolFull, match="is full: 76 of 100 bytes"):
        journal.append(pack(bytes(20)))
    journal.make_room(journal.end)
    journal.append(pack(bytes(20)))

    assert read_all(journal) == [bytes(20)]
    journal.close()


def test_trim_deletes_whole_segments_only(tmp_path: Path) -> None:
    """Records after the position stay, and so does the current segment."""
    journal = reopen(tmp_path, segment_bytes=1)
    ends = []
    for number in range(4):
        journal.append(pack(b"%d" % number))
        ends.append(journal.end)
    journal.trim(ends[2])

    assert read_all(journal) == [b"3"]
    journal.trim(journal.end)
    assert read_all(journal) == [b"3"]
    assert all(one < other for one, other in pairwise(ends))
    journal.close()


def test_second_writer_is_refused(journal: Journal, tmp_path: Path) -> None:
    """A second process is refused until the first one closes the journal."""
    with pytest.raises(SinkUnavailable, match="another process has it open"):
        reopen(tmp_path)
    journal.close()
    reopen(tmp_path).close()


def test_position_in_a_deleted_segment_is_the_start(tmp_path: Path) -> None:
    """A position in deleted files hides none of the present records."""
    journal = reopen(tmp_path)
    journal.append(pack(b"here"))

    assert read_all(journal, Position(12, 7)) == [b"here"]
    assert [*bodies(tmp_path, Position(0, 0))] == [b"here"]
    journal.close()


def test_failed_sync_leaves_no_trace(tmp_path: Path) -> None:
    """An append with a failed sync raises, and its bytes are removed."""
    failures = [OSError("disk is gone")]

    def sync(descriptor: int) -> None:
        if failing and failures:
            raise failures.pop()
        os.fsync(descriptor)

    failing = False
    journal = Journal(tmp_path, max_bytes=LARGE, sync=sync)
    failing = True
    with pytest.raises(SinkUnavailable, match="disk is gone"):
        journal.append(pack(b"lost"))
    journal.append(pack(b"kept"))

    assert read_all(journal) == [b"kept"]
    journal.close()
