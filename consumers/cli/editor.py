"""A text in the user's own editor."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path


def edit_in_file(text: str) -> Path:
    """
    Let the user edit *text* and return the file it is in, which only the user can read; who calls removes it.

    Raises:
        ValueError: no editor is set.
        OSError: it cannot be started, or failed.

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
