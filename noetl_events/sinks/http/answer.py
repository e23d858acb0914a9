"""
What an answer says of the events that were posted.

| status                    | of one event                     | of a batch                       |
|---------------------------|----------------------------------|----------------------------------|
| 2xx                       | stored                           | stored                           |
| 409, `duplicate` is true  | stored: it is there already      | refused: ask for each            |
| 409, code `conflict`      | a conflict: its key is another's | refused: ask for each            |
| 409 without either        | refused for ever, or by option   | refused: ask for each            |
|                           | stored                           |                                  |
| 401, 403, 407             | unavailable: the credentials     | unavailable                      |
| 404, 405                  | unavailable: the address         | refused: there may be no batches |
| 408, 425, 429, 5xx        | unavailable                      | unavailable                      |
| other 4xx                 | refused for ever                 | refused: ask for each            |
| 3xx and whatever else     | unavailable: the address         | unavailable                      |

A bare 409 may mean that the server has this very event, that it has another one under the same id, or that it forbids
the event: NoETL's own says so of a command that another worker has claimed.  So it is not taken for stored unless
the operator of the sink knows the server and says so.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec

from noetl_events.sink import SinkUnavailable

MAX_BODY: Final = 256 * 1024
_MAX_SHOWN: Final = 300
_WAIT: Final = {408, 425, 429}
# A token that expired and a path that is wrong are nothing an event could be buried for.
_CREDENTIALS: Final = {401, 403, 407}
_ADDRESS: Final = {404, 405}
_is_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Refusal(NamedTuple):
    """
    Why an event will never be taken.

    Args:
        reason: in words.
        is_conflict: whether the server has a different event with its key.

    """

    reason: str
    is_conflict: bool = False


class _Conflict(msgspec.Struct, frozen=True):
    """The words that tell what a 409 means."""

    code: str = ""
    duplicate: bool = False


_read_conflict = msgspec.json.Decoder(_Conflict).decode


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the server said.

    Args:
        status: of HTTP.
        body: of at most a little more than `MAX_BODY`; what is longer was left unread.
        retry_after: the header of this name.
        location: likewise.

    """

    status: int
    body: bytes
    retry_after: str | None = None
    location: str | None = None

    def refusal(self, *, of_batch: bool, is_409_stored: bool = False) -> Refusal | None:
        """
        Return why what was posted is refused, or None if it is stored.

        Args:
            of_batch: whether the answer is to several events.
            is_409_stored: whether a 409 that does not say what it means is to one event that the server has.

        Raises:
            SinkUnavailable: the answer says nothing of the events.

        """
        status = self.status
        if 200 <= status < 300:  # noqa: PLR2004  (the class of success)
            self._require_sound()
            return None
        if status == HTTPStatus.CONFLICT and not of_batch:
            return self._conflict(is_409_stored=is_409_stored)
        if not 400 <= status < 500 or status in _WAIT | _CREDENTIALS or (status in _ADDRESS and not of_batch):  # noqa: PLR2004  (the class of refusals)
            raise SinkUnavailable(f"http: {self._words()}", read_retry_after(self.retry_after))
        return Refusal(self._words())

    def _conflict(self, *, is_409_stored: bool) -> Refusal | None:
        try:
            said = _read_conflict(self.body[:MAX_BODY])
        except (ValueError, RecursionError):
            said = _Conflict()
        if said.code == "conflict":
            return Refusal(self._words(), is_conflict=True)
        if said.duplicate or is_409_stored:
            return None
        return Refusal(f"{self._words()}; if the server says so of an event that it has already, set on_409=stored")

    def _require_sound(self) -> None:
        """Raise `SinkUnavailable` for a success that some other server on the way may have made up."""
        if len(self.body) > MAX_BODY:
            raise SinkUnavailable(f"http: {self.status}, but the response is longer than {MAX_BODY} bytes")
        try:
            if self.body:
                _is_object(self.body)
        except (ValueError, RecursionError):
            raise SinkUnavailable(f"http: {self.status}, but not as NoETL answers: {self._shown()}") from None

    def _words(self) -> str:
        if 300 <= self.status < 400:  # noqa: PLR2004  (the class of redirects)
            return (
                f"{self.status}: it redirects to {self.location or 'nowhere'}, which is not followed; correct the URL"
            )
        if self.status in _CREDENTIALS:
            return f"{self.status}: the token is missing or not accepted: {self._shown()}"
        if self.status in _ADDRESS:
            return f"{self.status}: the URL leads to no endpoint for events: {self._shown()}"
        return f"{self.status}: {self._shown()}"

    def _shown(self) -> str:
        return repr(self.body[:_MAX_SHOWN].decode(errors="replace"))


def read_retry_after(value: str | None) -> float | None:
    """Return the seconds a `Retry-After` header asks for, or None if it is neither a number nor a date."""
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,10}", value.strip(), re.ASCII):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    wait = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(wait, 0.0)
