"""A life of a simulated process with a spool: it can end between any two steps, or during one."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from noetl_events.retry import Backoff
from noetl_events.sinks.spool.sink import SpoolSink
from tests.simulation.disk import Death
from tests.simulation.watched_stream import StreamSink, WatchedSink

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.simulation.spooling import SpoolRun


class SpoolProcess:
    """
    A life of a process.

    Args:
        run: run of the process.

    """

    def __init__(self, run: SpoolRun) -> None:
        self._run = run
        self._inner = (WatchedSink if run.is_watched else StreamSink)(run.stream)
        self._disk = asyncio.Lock()
        self._calls: list[asyncio.Task[None]] = []
        self._loop = asyncio.get_running_loop()
        self.ended = asyncio.Event()
        self.sink = SpoolSink(
            self._inner,
            run.disk.folder,
            max_bytes=run.max_bytes,
            replay_window=run.window,
            patience=run.draw.choice([0.0, 1.0, 20.0]),
            backoff=Backoff(initial=0.1, maximum=2.0),
            clock=self._loop.time,
        )
        self.sink._in_thread = self._in_thread  # type: ignore[method-assign]

    @property
    def is_dead(self) -> bool:
        """True if the process was killed."""
        return self._inner.is_dead

    def begin(self, call: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start *call* as a task that ends with the process."""
        task = asyncio.create_task(call)
        self._calls.append(task)
        task.add_done_callback(self._calls.remove)
        return task

    def die(self) -> None:
        """End the process: its later steps have no effect."""
        self._inner.is_dead = True
        self.ended.set()
        for task in list(self._calls):
            task.cancel()
        self._release()

    def _release(self) -> None:
        """Close the files that the kernel closes for a dead process."""
        for file in self._run.files:
            file.close()
        self._run.files.clear()
        with suppress(FileNotFoundError):
            lock = (self._run.disk.folder / "lock").stat()
            with os.scandir("/proc/self/fd") as entries:
                held = [int(entry.name) for entry in entries if os.path.samestat(entry.stat(), lock)]
            for descriptor in held:
                os.close(descriptor)

    async def _in_thread(self, call: Callable[..., Any], *args: Any) -> Any:
        await self._disk.acquire()
        # A started write continues without its caller, and the next one waits for its end.
        return await asyncio.shield(self._loop.create_task(self._step(call, args)))

    async def _step(self, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        try:
            await self._linger()
            self._require_life()
            outcome = self._outcome(call, args)
            await self._linger()
            self._require_life()
        finally:
            self._disk.release()
        return outcome

    def _outcome(self, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        try:
            return call(*args)
        except Death:
            self._run.on_death(self)
            raise asyncio.CancelledError from None

    async def _linger(self) -> None:
        if self._run.disk.is_slow:
            await asyncio.sleep(self._run.draw.expovariate(0.5))
        elif self._run.draw.random() < 0.4:
            await asyncio.sleep(self._run.draw.expovariate(200.0))

    def _require_life(self) -> None:
        if self.is_dead:
            raise asyncio.CancelledError
