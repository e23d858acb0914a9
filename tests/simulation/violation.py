"""What a simulation finds, and how it tells of it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


class Violation(AssertionError):
    """What must never happen has happened."""


@contextmanager
def telling(story: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Have whatever fails meanwhile tell the *story* of its run."""
    try:
        yield
    except AssertionError as exc:
        exc.add_note("\n".join(story()))
        raise
