"""The files of a recording that is a directory: `events-<number>.jsonl`, perhaps `.gz`, then `current.jsonl`."""

from __future__ import annotations

import gzip
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from noetl_events.sinks.jsonl import read_jsonl
from noetl_events.sinks.lines import decode_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from noetl_events.envelope import ExecutorEvent

CURRENT: Final = "current.jsonl"
_NAME: Final = re.compile(r"events-([0-9]{8,})\.jsonl(\.gz)?")


def segments(directory: Path) -> list[Path]:
    """Return the finished segments of *directory* in their order, each once."""
    found: dict[int, Path] = {}
    # Plain after .gz: where a crash left both, both hold the same.
    for path in sorted(directory.iterdir(), key=lambda path: path.suffix != ".gz"):
        if match := _NAME.fullmatch(path.name):
            found[int(match[1])] = path
    return [found[number] for number in sorted(found)]


def next_segment(directory: Path) -> Path:
    """Return the name of the segment after the last one."""
    taken = segments(directory)
    match = _NAME.fullmatch(taken[-1].name) if taken else None
    return directory / f"events-{int(match[1]) + 1 if match else 1:08d}.jsonl"


def compress(path: Path) -> None:
    """
    Replace *path* by `path.gz`; at no time is there neither of the two.

    Raises:
        OSError: *path* is there as before.

    """
    packed, unfinished = path.with_name(f"{path.name}.gz"), path.with_name(f"{path.name}.gz.part")
    with path.open("rb") as source, unfinished.open("wb") as target:
        with gzip.GzipFile(filename="", mode="wb", fileobj=target, compresslevel=6, mtime=0) as archive:
            shutil.copyfileobj(source, archive, 2**20)
        target.flush()
        os.fsync(target.fileno())
    unfinished.replace(packed)
    sync_directory(path.parent)
    path.unlink()


def sync_directory(directory: Path) -> None:
    """Make the names in *directory* durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_recording(path: str | os.PathLike[str]) -> Iterator[ExecutorEvent]:
    """
    Yield the events of a file, a `.gz` file, or a directory of them, in their order.

    Raises:
        MalformedEvent: a line is no event; the message begins with `path:line number:`.
        OSError: something cannot be read.

    """
    for file in _files(Path(path)):
        if file.suffix == ".gz":
            with gzip.open(file) as lines:
                yield from decode_lines(lines, str(file))
        else:
            yield from read_jsonl(file)


def count_lines(path: str | os.PathLike[str]) -> int:
    """Return how many lines a recording has, which is about how many events; raises OSError."""
    lines = 0
    for file in _files(Path(path)):
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
            while chunk := opened.read(2**20):
                lines += chunk.count(b"\n")
    return lines


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    current = path / CURRENT
    return [*segments(path), *([current] if current.exists() else [])]
