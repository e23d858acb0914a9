"""A client without the gateway's token, which must be refused everywhere."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from noetl_events import encode
from noetl_events.ids import Snowflake
from tests.faults.campaign.events import event_of

if TYPE_CHECKING:
    from collections import Counter

_PAUSE = 0.2
_NODE = 1022
_BRINGS: Final[dict[str, dict[str, str]]] = {
    "no token": {},
    "a wrong token": {"authorization": "Bearer of-somebody-else"},
    "another scheme": {"authorization": "Basic of-somebody-else"},
}
_ASKS: Final = (
    ("POST", "/api/events"),
    ("GET", "/api/status"),
    ("GET", "/api/dead"),
    ("GET", "/api/events/stream?from=start"),
)
_REFUSALS: Final = (401, 403)


class UnauthorizedClient:
    """
    A client that requests every path, with any credentials except the token.

    Args:
        gateway: URL of the gateway without a proxy.
        complaints: counter of the requests that were accepted, and of answers that a browser could take for a page.

    """

    def __init__(self, gateway: str, complaints: Counter[str]) -> None:
        self._gateway = gateway
        self._complaints = complaints
        self._new_id = Snowflake(node=_NODE)

    async def run(self) -> None:
        """Send requests until cancelled."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(2.0)) as session:
            while True:
                for brought, headers in _BRINGS.items():
                    for method, path in _ASKS:
                        with suppress(aiohttp.ClientError, OSError):
                            await self._ask(session, method, path, brought, headers)
                        await asyncio.sleep(_PAUSE)

    async def _ask(
        self, session: aiohttp.ClientSession, method: str, path: str, brought: str, headers: dict[str, str]
    ) -> None:
        body: Any = encode(event_of(self._new_id(), self._new_id())) if method == "POST" else None
        async with session.request(method, self._gateway + path, data=body, headers=headers) as answer:
            if answer.status not in _REFUSALS:
                self._complaints[f"{method} {path} with {brought}: {answer.status}"] += 1
            require_nosniff(answer, self._complaints)


def require_nosniff(answer: aiohttp.ClientResponse, complaints: Counter[str]) -> None:
    """Complain about an *answer* with a content type that a browser may guess."""
    if answer.headers.get("x-content-type-options") != "nosniff":
        complaints[f"{answer.method} {answer.url.path}: not said to be no page"] += 1
