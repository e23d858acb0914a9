"""Bodies of requests, read within bounds: of one, of all that are in hand, and of time."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from starlette.requests import ClientDisconnect

from consumers.gateway.refusal import Refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.requests import Request

MAX_BODY: Final = 2 * 1024 * 1024
_BUSY: Final = 1


class Intake:
    """
    The requests whose events are not stored yet.

    Args:
        max_requests: of them; past that they are refused, to come again.
        max_bytes: of their bodies, likewise.
        body_deadline: seconds a body may take to arrive.

    """

    def __init__(
        self, *, max_requests: int = 1_000, max_bytes: int = 64 * 1024 * 1024, body_deadline: float = 10.0
    ) -> None:
        self.requests = 0
        """In hand now."""
        self.bytes = 0
        """Of their bodies, as far as they have arrived."""

        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._body_deadline = body_deadline

    @contextmanager
    def place(self) -> Iterator[Place]:
        """
        Hold a place for one request.

        Raises:
            Refused: there is none.

        """
        if self.requests >= self._max_requests:
            raise Refused(429, "busy", f"{self.requests} requests wait to be stored", retry_after=_BUSY)
        self.requests += 1
        place = Place(self)
        try:
            yield place
        finally:
            self.requests -= 1
            self.bytes -= place.size

    def take(self, size: int) -> None:
        """
        Take room for so many bytes.

        Raises:
            Refused: there is none.

        """
        if self.bytes + size > self._max_bytes:
            raise Refused(429, "busy", f"{self.bytes:,} bytes wait to be stored", retry_after=_BUSY)
        self.bytes += size

    async def read(self, request: Request, place: Place) -> bytes:
        """
        Return the body of *request*.

        Raises:
            Refused: it is too large, too slow or cut short, or there is no room for it.

        """
        # The server has made sure that it is a number; a body in chunks announces none.
        if int(request.headers.get("content-length", "0")) > MAX_BODY:
            raise _too_large()
        try:
            async with asyncio.timeout(self._body_deadline):
                return b"".join([chunk async for chunk in place.chunks(request)])
        except TimeoutError:
            raise Refused(408, "slow", f"the body took longer than {self._body_deadline:g} s") from None
        except ClientDisconnect:
            raise Refused(400, "cut", "the body ended early") from None


class Place:
    """The place of one request in *intake*: what it takes there is given back with it."""

    def __init__(self, intake: Intake) -> None:
        self.size = 0
        self._intake = intake

    async def chunks(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the body as it comes, and not a byte more than is allowed."""
        async for chunk in request.stream():
            if self.size + len(chunk) > MAX_BODY:
                raise _too_large()
            self._intake.take(len(chunk))
            self.size += len(chunk)
            yield chunk


def _too_large() -> Refused:
    return Refused(413, "too_large", f"a body may have {MAX_BODY:,} bytes")
