"""The violations that a simulation finds, and their reports."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


class Violation(AssertionError):
    """A promise was broken."""


@contextmanager
def telling(story: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Add the *story* of the run to every exception of the block."""
    try:
        yield
    except AssertionError as exc:
        exc.add_note("\n".join(story()))
        raise
