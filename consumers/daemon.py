"""The life cycle of a daemon: signals, shutdown deadline, exit code."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any, Final

import structlog

from consumers.tasks import end_tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from consumers.tasks import Worker

SETTLED: Final = 0
UNSETTLED: Final = 1

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

log = structlog.get_logger()


def ignore_hangup() -> None:
    """Ignore SIGHUP before and after `run_until_signal` handles it, because by default it ends the process."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


async def run_until_signal(
    worker: Worker, *, deadline: Callable[[], float], on_hangup: Callable[[], None] | None = None
) -> int:
    """
    Run *worker* until SIGTERM or SIGINT, then finish the work in flight, and return the exit code.

    A second signal ends the worker at once, as does the end of *deadline()* seconds after the first.  The code is
    `UNSETTLED` if work was in flight then: a projector's messages are redelivered, a gateway's requests end without an
    answer.  Otherwise the code is `SETTLED`.

    SIGHUP calls *on_hangup*, which must not raise.

    Raises:
        Exception: the error that ended the worker.

    """
    signals = _Signals(on_hangup)
    running = asyncio.create_task(worker.run())
    tasks: set[asyncio.Task[Any]] = {running}
    try:
        if not await _finished_before(running, signals.first):
            log.info("daemon.stopping", messages=worker.in_flight)
            stopping = asyncio.create_task(_stop(worker, running))
            tasks.add(stopping)
            await asyncio.wait({stopping, signals.second_waiter()}, timeout=deadline(), return_when="FIRST_COMPLETED")
            if not stopping.done():
                return _exit_code(worker.in_flight, is_second_signal=signals.second.is_set())
            stopping.result()
        running.result()
    finally:
        signals.close()
        await end_tasks(tasks)
    log.info("daemon.stopped")
    return SETTLED


async def run_until_stopped(work: Coroutine[Any, Any, None]) -> bool:
    """
    Run *work* until it ends, or until SIGTERM or SIGINT, which cancel it; return whether it ended by itself.

    A second signal interrupts at once, like Ctrl-C.

    Raises:
        Exception: the error that ended *work*.

    """
    signals = _Signals(None)
    running = asyncio.create_task(work)
    try:
        is_over = await _finished_before(running, signals.first)
    finally:
        signals.close()
        if not running.done():
            await end_tasks([running])
    if is_over:
        running.result()
    return is_over


def _exit_code(in_flight: int, *, is_second_signal: bool) -> int:
    reason = "a second signal" if is_second_signal else "the deadline"
    if not in_flight:
        log.info("daemon.stopped", reason=reason)
        return SETTLED
    log.error("daemon.stopped_unsettled", messages=in_flight, reason=reason)
    return UNSETTLED


async def _stop(worker: Worker, running: asyncio.Task[None]) -> None:
    await worker.stop()
    await asyncio.wait({running})


async def _finished_before(running: asyncio.Task[None], event: asyncio.Event) -> bool:
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait({running, waiting}, return_when="FIRST_COMPLETED")
    waiting.cancel()
    return running.done()


class _Signals:
    """The first and the second signal to stop, as events of the running loop; SIGHUP does not count."""

    def __init__(self, on_hangup: Callable[[], None] | None) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self._waiter: asyncio.Task[bool] | None = None
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)
        self._before = signal.getsignal(signal.SIGHUP)
        if on_hangup is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, on_hangup)

    def second_waiter(self) -> asyncio.Task[bool]:
        self._waiter = asyncio.create_task(self.second.wait())
        return self._waiter

    def close(self) -> None:
        if self._waiter:
            self._waiter.cancel()
        for number in (*_SIGNALS, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(signal.SIGHUP, self._before)

    def _on_signal(self) -> None:
        (self.second if self.first.is_set() else self.first).set()
