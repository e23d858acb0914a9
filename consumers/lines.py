"""The lines of a file or a pipe as they come, without holding up the loop that waits for them."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from io import BufferedReader

_CHUNK: Final = 64 * 1024
_CHUNKS: Final = 4


async def lines_of(file: BufferedReader) -> AsyncIterator[list[bytes]]:
    """
    Yield the lines that have come since, waiting for the first; the last one may lack its line end.

    They are read in a thread of its own, which is not waited for: a pipe that says nothing holds up no end.

    Raises:
        OSError: *file* cannot be read.

    """
    loop, chunks = asyncio.get_running_loop(), asyncio.Queue[list[bytes] | OSError | None](_CHUNKS)

    def put(chunk: list[bytes] | OSError | None) -> None:
        asyncio.run_coroutine_threadsafe(chunks.put(chunk), loop).result()

    def read() -> None:
        # The loop may be closed by then.
        with suppress(RuntimeError, CancelledError):
            rest = b""
            try:
                while data := file.read1(_CHUNK):
                    *whole, rest = (rest + data).split(b"\n")
                    if whole:
                        put(whole)
                put([rest] if rest else [])
            except OSError as exc:
                put(exc)
            put(None)

    threading.Thread(target=read, name="lines", daemon=True).start()
    while (chunk := await chunks.get()) is not None:
        if isinstance(chunk, OSError):
            raise chunk
        if chunk:
            yield chunk
