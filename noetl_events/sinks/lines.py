"""Encoding and decoding of events as lines of JSON, as in NDJSON and JSON Lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from noetl_events.envelope import decode, encode
from noetl_events.identity import message_id
from noetl_events.json_values import MalformedEvent
from noetl_events.sink import require_ids

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from noetl_events.envelope import ExecutorEvent

log = structlog.get_logger()

# A `msgspec.Raw` is written as it was received and may contain line breaks.  Outside of strings they are white space
# like a blank, and inside of strings JSON does not allow them unescaped, so each becomes a blank.
_ON_ONE_LINE: Final = bytes.maketrans(b"\r\n", b"  ")


def encode_lines(events: Sequence[ExecutorEvent]) -> tuple[dict[bytes, bytes], dict[int, str]]:
    """
    Return the lines by message id, and by index the reasons of events without a line.

    Raises:
        ValueError: an event has no id.

    """
    lines: dict[bytes, bytes] = {}
    reasons: dict[int, str] = {}
    for place, (event_id, event) in enumerate(zip(require_ids(events), events, strict=True)):
        try:
            line = encode(event).translate(_ON_ONE_LINE)
        except MalformedEvent as exc:
            reasons[place] = str(exc)
        else:
            # The id is computed from the line, so reading the file gives the same id again.
            lines[message_id(event_id, line)] = line + b"\n"
    return lines, reasons


def decode_lines(lines: Iterable[bytes], source: str, *, strict: bool = True) -> Iterator[ExecutorEvent]:
    """
    Yield the event of each line of *source*, and skip blank lines.

    Without *strict*, a line that is no event is logged and skipped.

    Raises:
        MalformedEvent: a line is no event; the message begins with `source:line number:`.

    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield decode(line)
        except MalformedEvent as exc:
            if strict:
                raise MalformedEvent(f"{source}:{number}: {exc}") from None
            log.warning("lines.malformed", source=source, line=number, reason=str(exc))
