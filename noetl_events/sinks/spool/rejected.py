"""The file of rejected events: a line of JSON for each event that the destination will never accept."""

from __future__ import annotations

import json
import os
from contextlib import closing
from typing import TYPE_CHECKING

from noetl_events.sinks.append_file import AppendFile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def append_rejected(file: Path, rejected: Sequence[tuple[str, str]]) -> None:
    """
    Append *rejected*, pairs of an event's text and the reason, to *file*, durably.

    Raises:
        OSError: the disk refuses; the file is unchanged.

    """
    lines = "".join(json.dumps({"reason": reason, "event": text}) + "\n" for text, reason in rejected).encode()
    with closing(AppendFile(file, os.fsync)) as opened:
        # A power cut may have left half a line, so start a new one.
        is_torn = opened.length and opened.read(opened.length - 1, 1) != b"\n"
        opened.append(b"\n" + lines if is_torn else lines)
