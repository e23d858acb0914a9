"""How tasks are ended by who owns them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_CANCEL_AGAIN: Final = 0.5


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel *tasks* and return when all have ended, whatever they end with; what they raise is not reported."""
    everything = set(tasks)
    pending = everything
    while pending:
        for task in pending:
            task.cancel()
        # More than once: nats-py swallows a cancellation that comes while it flushes.
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN)
    await asyncio.gather(*everything, return_exceptions=True)
