"""
Comparison of JSON by its meaning, independent of its notation.

A destination may rewrite JSON, as jsonb does: keys in another order, 1.0 for 1, 100000 for 1e5, 0 for -0.  These are
equal.  A different digit is a difference, even the last of thirty: numbers are compared as decimals and never as
floats.
"""

from __future__ import annotations

from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from msgspec import Raw

# Events contain no numbers beyond a float's range, so larger integers are not expanded into digits.
_MAX_EXPONENT: Final = 310

_exact = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)


def _number(text: str) -> int | Decimal:
    """Return a number in its canonical form."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        # The exponent has about twenty digits, which no event contains, so any value will do.
        return 0
    if number.adjusted() <= _MAX_EXPONENT and number == number.to_integral_value(context=_exact):
        return int(number)
    return _exact.normalize(number)


decode_canonical = msgspec.json.Decoder(float_hook=_number).decode
"""Return the value of JSON text with numbers in canonical form; raises ValueError or RecursionError for other text."""

encode_canonical = msgspec.json.Encoder(order="sorted", decimal_format="number").encode
"""Return a value as JSON text, the same text for all equal values."""


def means_the_same(one: Raw | None, other: Raw | None) -> bool:
    """Return True if two JSON texts mean the same; None means no text, and invalid JSON equals only identical text."""
    if one is None or other is None:
        return one is other
    if bytes(one) == bytes(other):
        return True
    try:
        return _canonical(one) == _canonical(other)
    except (ValueError, RecursionError, OverflowError):
        return False


def _canonical(text: Any) -> bytes:
    return encode_canonical(decode_canonical(text))
