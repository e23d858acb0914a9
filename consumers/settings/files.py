"""Read the settings file, in which unknown keys are errors, and files with secrets."""

from __future__ import annotations

import re
import stat
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from consumers.settings.declared import declared_settings, section_kinds
from consumers.settings.setting import SettingsError
from noetl_events.jetstream.connect.servers import redacted

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_BYTES: Final = 64 * 1024

_MOST_DOTS: Final = 256
_TOO_DEEP: Final = "nested too deep; a setting is at most a list in a table"

_PLAIN_KEY: Final = re.compile(r"\[{0,2}\s*[A-Za-z0-9_.-]{1,80}\s*\]{0,2}")
_LINE: Final = re.compile(r"at line (\d+)")


def read_file(path: Path) -> dict[str, Any]:
    """
    Return the values of the settings file *path* by key, such as `projector.batch_size`, without checking their types.

    Raises:
        SettingsError: the file cannot be read, is no TOML, or has an unknown key.

    """
    tables = _parse(path, _text_of(path))
    known = {setting.key for setting in declared_settings()}
    values: dict[str, Any] = {}
    for section, table in tables.items():
        if section not in section_kinds():
            raise SettingsError(f"{path}: {_unknown(section, section_kinds())}")
        if not isinstance(table, dict):
            raise SettingsError(f"{path}: {section}: not a table; write [{section}] and its settings below it")
        for field, value in table.items():
            if f"{section}.{field}" not in known:
                raise SettingsError(f"{path}: {_unknown(f'{section}.{field}', known)}")
            values[f"{section}.{field}"] = value
    return values


def _text_of(path: Path) -> str:
    try:
        # Opening a pipe would block until it has a writer, so the kind of file is checked first.
        if not stat.S_ISREG(path.stat().st_mode):
            raise SettingsError(f"{path}: not a file; name a TOML file with --config or NOETL_CONFIG")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as exc:
        if isinstance(exc, SettingsError):
            raise
        reason = getattr(exc, "strerror", None) or str(exc)
        raise SettingsError(
            f"{str(path)!r}: cannot be read: {reason}; name a TOML file with --config or NOETL_CONFIG"
        ) from None
    if len(content) > MAX_BYTES:
        raise SettingsError(f"{path}: larger than {MAX_BYTES} bytes; this is no settings file, or split it")
    try:
        return content.decode()
    except UnicodeDecodeError as exc:
        raise SettingsError(f"{path}: not UTF-8 at byte {exc.start}; save it as UTF-8") from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    # The parser's time is quadratic in the length of a key: a file of the allowed size could take seconds.
    if any(part.count(".") > _MOST_DOTS for line in text.splitlines() for part in line.split("=")):
        raise SettingsError(f"{path}: {_TOO_DEEP}")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise SettingsError(f"{path}: {_TOO_DEEP}") from None
    except ValueError as exc:
        # Only the key of the line is quoted, because the value may be a secret.
        reason = str(exc).partition(";")[0]
        raise SettingsError(f"{path}: {_place(text, reason)}{reason}; correct the TOML there") from None


def _place(text: str, reason: str) -> str:
    found = _LINE.search(reason)
    # An error without a line number is at the end of the file.
    lines = text.splitlines()[: int(found[1])] if found else text.rstrip().splitlines()
    key = lines[-1].partition("=")[0].strip() if lines else ""
    return f"{key}: " if _PLAIN_KEY.fullmatch(key) else ""


def _unknown(key: str, known: Iterable[str]) -> str:
    shown = key if _PLAIN_KEY.fullmatch(key) else repr(redacted(key)[:80])
    return f"{shown}: no such setting; {_nearest(key, sorted(known))}"


def _nearest(key: str, known: list[str]) -> str:
    field = key.rpartition(".")[2]
    for setting in declared_settings():
        if field == setting.environ or (field == setting.field and setting.key != key):
            return f"did you mean {setting.key}?"
    if close := get_close_matches(key[:80], known, 1, 0.6):
        return f"did you mean {close[0]}?"
    section = key.partition(".")[0]
    return f"known: {', '.join(name for name in known if name.startswith(f'{section}.')) or ', '.join(known)}"


log = structlog.get_logger()


def read_secret(label: str, path: str) -> str:
    """
    Return the content of the file *path*, which the setting *label* names, without surrounding white space.

    A file that is readable by other users is used, with a warning in the log.

    Raises:
        SettingsError: the file cannot be read, is empty, too large, or no text; the message quotes none of its content.

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
    """Log a warning if other users may read the file *path*; do nothing if the file is missing."""
    try:
        mode = stat.S_IMODE(Path(path).stat().st_mode)
    except OSError:
        return
    if mode & 0o077:
        log.warning("settings.secret_readable", setting=label, path=path, mode=f"{mode:04o}", remedy="chmod 0600")
