"""
Valid JSON values: those that both serde_json and msgspec write and read.

msgspec alone accepts more: it writes NaN as null, a set as an array and a date as a string, and it does not check the
inside of a `msgspec.Raw` for invalid UTF-8, lone surrogates or numbers beyond a float.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
from msgspec import Raw

MIN_INT64: Final = -(2**63)
MAX_INT64: Final = 2**63 - 1
MAX_DEPTH: Final = 127
"""Most levels of arrays and objects in a message, the envelope included: the limit of serde_json 1.0."""

_MAX_VALUE_DEPTH: Final = MAX_DEPTH - 1
# Shorter texts cannot contain too many levels or digits.
_SHORT: Final = 2 * _MAX_VALUE_DEPTH
_MAX_FLOAT: Final = 1.7976931348623157e308
_HUGE_DIGITS: Final = 309
_HUGE: Final = b"0" * _HUGE_DIGITS
_ALL_DIGITS_ZERO: Final = bytes.maketrans(b"123456789", b"000000000")
_MAX_PATH: Final = 80
# These types need no check; a lone surrogate in a string is found by the encoder.
_PLAIN: Final = frozenset((str, bool, type(None), Raw))

if TYPE_CHECKING:
    Json: TypeAlias = Any
else:
    # msgspec reads this annotation, so a decoded value stays bytes until it is used.
    Json = Raw

decode_value = msgspec.json.Decoder().decode
encode_value = msgspec.json.Encoder().encode


class MalformedEvent(ValueError):
    """
    An event that cannot be written, or a body that is no event; final, so a retry is useless.

    The message names the field, the value and the expected form.
    """


class _NotJsonError(Exception):
    """A value that JSON lacks; the path to it is collected while the exception passes up."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.path: list[str] = []

    def __str__(self) -> str:
        return f"{shortened(''.join(reversed(self.path)))}: {self.args[0]}"


def require_json(field: str, value: Json) -> None:
    """
    Check that *value* contains only JSON values; a `msgspec.Raw` is trusted.

    Raises:
        MalformedEvent: *value* is not valid; the message has the path to the fault, such as `context.rows[3]`.

    """
    try:
        _walk(value, _MAX_VALUE_DEPTH)
    except _NotJsonError as exc:
        exc.path.append(field)
        raise MalformedEvent(str(exc)) from None


def encode_json(field: str, value: Json) -> bytes:
    """
    Return *value* as JSON text, with the checks of `require_json` and one for lone surrogates.

    Raises:
        MalformedEvent: *value* contains values that JSON lacks.

    """
    if type(value) is Raw:
        return bytes(value)
    require_json(field, value)
    try:
        return encode_value(value)
    except UnicodeEncodeError:
        raise MalformedEvent(f"{field}: a lone surrogate cannot be written as UTF-8; replace it") from None


def require_sound(field: str, raw: Raw) -> Json:
    """
    Return the value in *raw*, with the checks that msgspec omits.

    Raises:
        MalformedEvent: *raw* has invalid UTF-8, a lone surrogate, a number beyond a float, or too many levels.

    """
    try:
        value = decode_value(raw)
    except (ValueError, RecursionError, OverflowError) as exc:
        raise MalformedEvent(f"{shortened(field)}: {explain(exc)}") from None
    if len(raw) > _SHORT and _may_be_extreme(bytes(raw)):
        require_json(field, value)
    return value


def shortened(path: str) -> str:
    """Return a field's name or path, shortened for an error text, because a body may contain names of any length."""
    return path if len(path) <= _MAX_PATH else f"{path[:_MAX_PATH]}..."


def explain(exc: Exception) -> str:
    """Return an explanation of msgspec's decoding error."""
    if isinstance(exc, UnicodeDecodeError):
        return f"invalid UTF-8 (byte 0x{exc.object[exc.start]:02x})"
    if isinstance(exc, RecursionError):
        return f"nested deeper than {MAX_DEPTH} levels, the envelope included"
    return str(exc).removeprefix("JSON is malformed: ").removesuffix(" - at `$`")


def _walk(value: Json, room: int) -> None:
    kind = type(value)
    if kind is dict:
        items = value.items()
    elif kind is list or kind is tuple:
        items = enumerate(value)
    else:
        _require_scalar(value)
        return
    if not room:
        raise _NotJsonError(f"nested deeper than {MAX_DEPTH} levels, the envelope included, or in a circle")
    for key, item in items:
        if kind is dict and not isinstance(key, str):
            raise _NotJsonError(f"the key {key!r} is not a string")
        # Most values are plain; skipping the call for them halves the cost of writing an event.
        if type(item) in _PLAIN or (type(item) is int and MIN_INT64 <= item <= MAX_INT64):
            continue
        try:
            _walk(item, room - 1)
        except _NotJsonError as exc:
            exc.path.append(f".{key}" if kind is dict else f"[{key}]")
            raise


def _require_scalar(value: Json) -> None:
    kind = type(value)
    if kind is int:
        if not -_MAX_FLOAT <= value <= _MAX_FLOAT:
            raise _NotJsonError("an integer beyond a float's range; send it as a string")
    elif kind is float:
        if not math.isfinite(value):
            raise _NotJsonError(f"{value} is not a JSON number; send null or a string")
    elif kind not in _PLAIN and not isinstance(value, str):
        raise _NotJsonError(f"{kind.__name__} is not a JSON type; convert it to one")


def _may_be_extreme(text: bytes) -> bool:
    # Checking each value costs more than counting brackets and digits, and is rarely necessary.
    if text.count(b"[") + text.count(b"{") > _MAX_VALUE_DEPTH:
        return True
    return len(text) >= _HUGE_DIGITS and _HUGE in text.translate(_ALL_DIGITS_ZERO)
