"""Wait for a condition, not for a time."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


async def eventually(condition: Callable[[], Any], *, timeout: float = 180.0, what: str = "") -> Any:  # noqa: ASYNC109
    """
    Return what *condition*, a function or a coroutine function, returns once that is true.

    Raises:
        AssertionError: it was not within *timeout* seconds; it ends with *what* and the last value.

    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or condition}: {value!r}")
        await asyncio.sleep(0.01)
