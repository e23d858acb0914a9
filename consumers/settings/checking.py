"""One setting, from what somebody gave to what the process uses."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from consumers.settings.errors import SettingsError
from consumers.settings.secrets import warn_of_readers
from consumers.settings.sections import section_kinds

if TYPE_CHECKING:
    from consumers.settings.setting import Setting

_FIRST_PRINTABLE: Final = " "
_DELETE: Final = "\x7f"


class Given(NamedTuple):
    """
    A value, as somebody gave it.

    Args:
        value: of any type.
        origin: who gave it, in a word for `config show`.
        label: its place, for an error.
        is_text: it came as text, whatever its type.

    """

    value: Any
    origin: str
    label: str
    is_text: bool = False


def checked(setting: Setting, given: Given) -> Any:
    """
    Return the value of *setting* that was *given*.

    Raises:
        SettingsError: it is none; the message holds the value, unless that is a secret.

    """
    try:
        value = _converted(setting, _split(setting, given), strict=not given.is_text)
    except ValueError as exc:
        raise SettingsError(f"{given.label}: {setting.shown(given.value)}: {exc}; {setting.remedy}") from None
    if reason := _flaw(value, setting.gap):
        raise SettingsError(f"{given.label}: {setting.shown(given.value)}: {reason}; {setting.remedy}")
    if setting.is_file and value:
        warn_of_readers(given.label, value)
    return value


def _split(setting: Setting, given: Given) -> Any:
    if not given.is_text:
        return given.value
    if setting.is_list:
        return given.value.split()
    return given.value.lower() if setting.is_choice else given.value


def _converted(setting: Setting, value: Any, *, strict: bool) -> Any:
    kind = section_kinds()[setting.section]
    try:
        return getattr(msgspec.convert({setting.field: value}, kind, strict=strict), setting.field)
    except msgspec.ValidationError as exc:
        # msgspec says what it expected, but of a choice what it got, which may be a secret in the wrong place.
        reason = str(exc).partition(" - at")[0]
        raise ValueError("not allowed" if setting.is_choice or "regex" in reason else reason) from None


def _flaw(value: Any, gap: tuple[float, float] | None) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "not finite"
    if gap and gap[0] < value < gap[1]:
        return "no NATS server takes it"
    texts = [part for part in (value if isinstance(value, tuple) else [value]) if isinstance(part, str)]
    if any("\ud800" <= sign <= "\udfff" for text in texts for sign in text):
        return "not UTF-8"
    if any(sign < _FIRST_PRINTABLE or sign == _DELETE for text in texts for sign in text):
        return "a control character is in it"
    return ""
