"""Secrets that stand in files of their own."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

import structlog

from consumers.settings.errors import SettingsError

MAX_BYTES: Final = 64 * 1024

log = structlog.get_logger()


def read_secret(label: str, path: str) -> str:
    """
    Return what is in the file *path* that the setting *label* names, without the white space around it.

    A file that others than its owner may read is used, and warned of.

    Raises:
        SettingsError: it cannot be read, is empty, too large, or no text; the message holds nothing of it.

    """
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise SettingsError(f"{label}: {path!r} is not a file; name a file that holds nothing but the secret")
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode().strip()
    except OSError as exc:
        reason = exc.strerror or exc
        raise SettingsError(f"{label}: {path!r} cannot be read: {reason}; correct its path or mode") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{label}: {path!r} is not UTF-8; save it as UTF-8") from None
    if not text or len(content) > MAX_BYTES:
        wrong = "empty" if not text else f"larger than {MAX_BYTES} bytes"
        raise SettingsError(f"{label}: {path!r} is {wrong}; write the secret into it, and nothing else")
    warn_of_readers(label, path)
    return text


def warn_of_readers(label: str, path: str) -> None:
    """Log a warning if others than its owner may read the file *path*; say nothing if there is none."""
    try:
        mode = stat.S_IMODE(Path(path).stat().st_mode)
    except OSError:
        return
    if mode & 0o077:
        log.warning("settings.secret_readable", setting=label, path=path, mode=f"{mode:04o}", remedy="chmod 0600")
