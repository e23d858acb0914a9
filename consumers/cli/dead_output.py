"""Output of dead letters, as a table or as JSON lines, and editing in the user's editor."""

from __future__ import annotations

import base64
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import structs
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consumers.logs import escaped, escaped_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consumers.dead_letters.letter import Letter
    from consumers.dead_letters.resend import Outcome


def edit_in_file(text: str) -> Path:
    """
    Open *text* in the user's editor, and return the file with the result.

    Only the user can read the file; the caller deletes it.

    Raises:
        ValueError: no editor is set.
        OSError: the editor cannot be started, or failed.

    """
    command = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "")
    if not command:
        raise ValueError("EDITOR: not set; set it, or write the new payload to a file and name that with --file")
    handle, name = tempfile.mkstemp(prefix="dead-letter-", suffix=".json")
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
        file.write(text)
    done = subprocess.run([*command, name], check=False)  # noqa: S603  (the user's own command)
    if done.returncode:
        raise OSError(f"{command[0]} ended with {done.returncode}; nothing was sent, the text is in {name}")
    return Path(name)


def print_letters(letters: Sequence[Letter], *, as_json: bool) -> None:
    """Print *letters* without headers and payload, one per line."""
    if as_json:
        _print_lines([_fields(letter) for letter in letters])
        return
    rows = [
        (
            str(letter.sequence),
            f"{letter.buried_at:%Y-%m-%dT%H:%M:%SZ}",
            letter.kind,
            letter.subject,
            letter.origin_sequence,
            letter.reason,
            f"{letter.size:,}",
        )
        for letter in letters
    ]
    _print_table(("number", "buried", "kind", "subject", "sequence", "reason", "bytes"), rows)


def print_letter(letter: Letter, *, as_json: bool) -> None:
    """Print *letter* with headers and payload."""
    if as_json:
        _print_lines([_fields(letter) | {"headers": letter.headers} | _payload(letter.body)])
        return
    named = [(name.replace("_", " "), str(value)) for name, value in _fields(letter).items()]
    named += [(f"header {name}", value) for name, value in letter.headers.items()]
    _print_table((), named)
    payload = escaped(readable(letter.body), allowed="\n")
    sys.stdout.write(f"\n{payload}\n")


def print_outcomes(outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    """Print the result of each letter."""
    if as_json:
        _print_lines([structs.asdict(outcome) for outcome in outcomes])
    elif outcomes:
        rows = [(str(each.sequence), each.outcome, each.subject, each.reason) for each in outcomes]
        _print_table(("number", "outcome", "subject", "reason"), rows)


def readable(body: bytes) -> str:
    r"""Return *body* as indented JSON if it is JSON, else as text, with `\xff` for bytes that are not UTF-8."""
    try:
        return msgspec.json.format(body, indent=2).decode()
    except (ValueError, RecursionError):
        return body.decode(errors="backslashreplace")


def _fields(letter: Letter) -> dict[str, Any]:
    return {name: value for name, value in structs.asdict(letter).items() if name not in ("headers", "body")}


def _payload(body: bytes) -> dict[str, str]:
    try:
        return {"payload": body.decode()}
    except UnicodeDecodeError:
        return {"payload_base64": base64.b64encode(body).decode()}


def _print_lines(objects: list[dict[str, Any]]) -> None:
    sys.stdout.write("".join(f"{escaped_json(each)}\n" for each in objects))


def _print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    table = Table(show_header=bool(columns), box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(escaped(cell)) for cell in row))
    Console().print(table)
