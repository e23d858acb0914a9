"""
Errors of servers, read from the text of their `-ERR`, which nats-py passes on in lower case.

No other file parses these texts.  They are those of nats-server 2.10 to 2.15; unknown ones are shown unchanged.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from nats.errors import StaleConnectionError, UnexpectedEOF

if TYPE_CHECKING:
    from collections.abc import Iterator

_NATS_PY: Final = re.compile(r"^nats: ")
_VIOLATION: Final = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE)
_DENIED: Final = "permissions violation"
_MOST_DENIALS: Final = 1_000


class Denial(NamedTuple):
    """A denied permission; the connection stays open."""

    action: Literal["publish", "subscription", ""]
    subject: str
    words: str

    def concerns(self, subject: str, action: str = "") -> bool:
        """Return True if *action*, or any by default, is denied on *subject*, which is whole or ends with a token."""
        subject = subject.lower()
        if not self.subject:
            return subject in self.words.lower()
        return action in ("", self.action) and f"{self.subject}.".startswith(f"{subject}.")

    def words_for(self, subject: str) -> str:
        """Return the server's text with *subject* in its original case."""
        return self.words.replace(subject.lower(), subject)


def words_of(error: BaseException | str | None) -> str:
    """Return the server's text, without the parts that nats-py adds."""
    if isinstance(error, UnexpectedEOF):
        return "the server has closed the connection"
    if isinstance(error, StaleConnectionError):
        return "the server does not answer pings"
    text = (str(error) or type(error).__name__) if error is not None else ""
    return _NATS_PY.sub("", text).strip("'")


def cause_of(reason: str) -> Literal["credentials", "certificate", "address"]:
    """Return the setting to correct after the *reason* why no server accepted the connection."""
    words = reason.lower()
    if "authorization" in words:
        return "credentials"
    return "certificate" if "certificate" in words or "ssl" in words else "address"


def denial_in(error: BaseException) -> Denial | None:
    """Return *error* as a denial; None if it is another error."""
    words = words_of(error)
    if _DENIED not in words.lower():
        return None
    if match := _VIOLATION.search(words):
        return Denial("publish" if match[1].lower() == "publish" else "subscription", match[2].lower(), words)
    return Denial("", "", words)


class Denials:
    """The denials of a connection that were not returned yet, at most the last thousand."""

    def __init__(self) -> None:
        self._denials: dict[str, Denial] = {}
        self._tolerated: set[str] = set()

    def record(self, denial: Denial) -> bool:
        """Store *denial*, and return True if it has to be logged."""
        self._denials[denial.words] = denial
        if len(self._denials) > _MOST_DENIALS:
            del self._denials[next(iter(self._denials))]
        return not any(denial.concerns(subject) for subject in self._tolerated)

    def pop(self, subject: str, action: str) -> str | None:
        """Remove a denial of *subject*, and return its text; None if there is none."""
        concerning = (key for key, denial in self._denials.items() if denial.concerns(subject, action))
        if (key := next(concerning, None)) is None:
            return None
        return self._denials.pop(key).words_for(subject)

    @contextmanager
    def tolerating(self, subject: str) -> Iterator[None]:
        """Store a denial of *subject*, but do not have it logged, because the caller expects one."""
        self._tolerated.add(subject)
        try:
            yield
        finally:
            self._tolerated.discard(subject)
