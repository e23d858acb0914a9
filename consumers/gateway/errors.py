"""
What the gateway says when it does not do what it was asked, and what the client does next.

    400, 404, 405        correct the request
    401                  bring the token
    403                  a page of another site asked: not from here
    408                  send the body faster
    409                  give the events that `errors` names ids of their own: others have theirs
    413                  send less at once
    422                  correct the events that `errors` names; nothing else will ever be taken
    429, 503             send the same again after `Retry-After` seconds
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.requests import Request


class Fault(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    What is the matter with one event.

    Args:
        index: of the event in its batch, from 0 up.
        event_id: of it, if it has one.
        field: that is wrong.
        reason: in words.

    """

    reason: str
    index: int | None = None
    event_id: int | None = None
    field: str = ""


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    code: str
    message: str
    errors: tuple[Fault, ...]
    status: str = "error"


class Refused(Exception):
    """
    A request that gets another answer than the one it asked for.

    Args:
        status: of HTTP.
        code: why, in a word that does not change.
        message: why, for people.
        errors: which events, if it is about some of them.
        retry_after: seconds until it may work.

    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        errors: tuple[Fault, ...] = (),
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.errors = errors
        self.retry_after = retry_after

    def response(self) -> Response:
        """Return it as an answer."""
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["www-authenticate"] = "Bearer"
        body = _Body(code=self.code, message=str(self), errors=self.errors)
        return Response(msgspec.json.encode(body), self.status, headers, media_type="application/json")


async def answer_refused(_: Request, exc: Exception) -> Response:
    """Answer a `Refused` that an endpoint raised."""
    if not isinstance(exc, Refused):
        raise exc
    return exc.response()
