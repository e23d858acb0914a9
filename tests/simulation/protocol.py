"""The commands of a client, as the server reads them."""

from __future__ import annotations

import re
from typing import Final

_LINE: Final = re.compile(rb"(H?PUB) (\S+) (?:(\S+) )??(\d+)(?: (\d+))?\r\n")


def parsed(encoded: bytes) -> list[tuple[str, str, dict[str, str], bytes]]:
    """Return subject, reply, headers and body of each publish in *encoded*."""
    commands: list[tuple[str, str, dict[str, str], bytes]] = []
    start = 0
    while start < len(encoded):
        line = _LINE.match(encoded, start)
        assert line, encoded[start : start + 80]
        verb, subject, reply, first, second = line.groups()
        has_head = verb == b"HPUB"
        head_size, size = (int(first), int(second)) if has_head else (0, int(first))
        head = encoded[line.end() : line.end() + head_size]
        data = encoded[line.end() + head_size : line.end() + size]
        start = line.end() + size + 2
        commands.append((subject.decode(), (reply or b"").decode(), _headers(head), data))
    return commands


def _headers(head: bytes) -> dict[str, str]:
    pairs = (text.partition(": ")[::2] for text in head.decode().split("\r\n")[1:] if text)
    return dict(pairs)
