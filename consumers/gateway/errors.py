"""
Error responses of the gateway, and the client's next step.

    400, 404, 405        correct the request
    401                  send the token
    403                  do not call the API from a page of another site
    408                  send the body faster
    409                  give the events in `errors` other ids: theirs belong to other events
    413                  send less at once
    422                  correct the events in `errors`; they are rejected permanently
    429, 503             retry the same request after `Retry-After` seconds
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.requests import Request


class EventError(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    The error of one event.

    Args:
        index: index of the event in its batch, from 0.
        event_id: id of the event, if it has one.
        field: name of the wrong field.
        reason: reason in words.

    """

    reason: str
    index: int | None = None
    event_id: int | None = None
    field: str = ""


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    code: str
    message: str
    errors: tuple[EventError, ...]
    status: str = "error"


class ApiError(Exception):
    """
    An error response.

    Args:
        status: HTTP status.
        code: stable error code, one word.
        message: reason, for people.
        errors: errors of single events.
        retry_after: seconds until the client should retry.

    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        errors: tuple[EventError, ...] = (),
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.errors = errors
        self.retry_after = retry_after

    def response(self) -> Response:
        """Return the HTTP response."""
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["www-authenticate"] = "Bearer"
        body = _Body(code=self.code, message=str(self), errors=self.errors)
        return Response(msgspec.json.encode(body), self.status, headers, media_type="application/json")


async def answer_refused(_: Request, exc: Exception) -> Response:
    """Return the response for an `ApiError` that an endpoint raised."""
    if not isinstance(exc, ApiError):
        raise exc
    return exc.response()
