"""
`GET /`: the live page, a single file.

Its content security policy allows its own script and style, requests to this gateway, and inline images; a browser
loads and runs nothing else.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

from starlette.responses import PlainTextResponse, Response

if TYPE_CHECKING:
    from starlette.requests import Request

_FILE: Final = Path(__file__).with_name("page.html")
_NONCE_PLACEHOLDER: Final = "__NONCE__"


async def show_page(_: Request) -> Response:
    """Return the page, with a nonce for its own script and style."""
    if not _FILE.exists():
        return PlainTextResponse("no page here; see /openapi.json", 404)
    nonce = secrets.token_urlsafe(16)
    html = _FILE.read_text(encoding="utf-8")
    return Response(html.replace(_NONCE_PLACEHOLDER, nonce), media_type="text/html", headers=_headers(nonce))


def _headers(nonce: str) -> dict[str, str]:
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "cache-control": "no-store",
        "content-security-policy": policy,
        "referrer-policy": "no-referrer",
    }
