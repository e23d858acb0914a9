"""
What two copies of an event have in common, however their JSON is written.

A destination may write JSON anew, as jsonb does: keys in another order, 1.0 for 1, 100000 for 1e5, 0 for -0.  That is
no difference.  Another digit is one, the last of thirty too: numbers are compared as decimals and never as floats.
"""

from __future__ import annotations

from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal, InvalidOperation
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from noetl_events.envelope import ExecutorEvent

# Beyond a float's range, which no event has, an integer is not worth its digits.
_MAX_EXPONENT: Final = 310

_exact = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)


def checksum(event: ExecutorEvent) -> int:
    """
    Return a signed 64-bit number that all nine fields of *event* go into; *context* and *meta* are `msgspec.Raw`.

    Raises:
        ValueError: *context* or *meta* hold no JSON.
        RecursionError: they are nested deeper than an event can be.

    """
    fields = (
        event.execution_id,
        event.event_id,
        event.event_type,
        event.step,
        event.status,
        event.created_at,
        _decode(event.context),
        event.worker_id,
        None if event.meta is None else _decode(event.meta),
    )
    return int.from_bytes(blake2b(_encode(fields), digest_size=8).digest(), signed=True)


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


_decode = msgspec.json.Decoder(float_hook=_number).decode
_encode = msgspec.json.Encoder(order="sorted", decimal_format="number").encode
