"""
JSON by its meaning, however it is written.

A destination may write JSON anew, as jsonb does: keys in another order, 1.0 for 1, 100000 for 1e5, 0 for -0.  That is
no difference.  Another digit is one, the last of thirty too: numbers are compared as decimals and never as floats.
"""

from __future__ import annotations

from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from msgspec import Raw

# Beyond a float's range, which no event has, an integer is not worth its digits.
_MAX_EXPONENT: Final = 310

_exact = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)


def _number(text: str) -> int | Decimal:
    """Return the one form of all the ways to write a number."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        # An exponent of twenty digits: in an event, which has nothing beyond a float, that is nothing.
        return 0
    if number.adjusted() <= _MAX_EXPONENT and number == number.to_integral_value(context=_exact):
        return int(number)
    return _exact.normalize(number)


decode_canonical = msgspec.json.Decoder(float_hook=_number).decode
"""Return the value of JSON text with each number in its one form; raises ValueError or RecursionError for no JSON."""

encode_canonical = msgspec.json.Encoder(order="sorted", decimal_format="number").encode
"""Return a value as JSON text, the same for all values that mean the same."""


def means_the_same(one: Raw | None, other: Raw | None) -> bool:
    """Return whether two JSON texts mean the same; None is no text, and one that is no JSON is only like itself."""
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
