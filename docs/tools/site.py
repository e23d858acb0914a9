"""Additions to mkdocs: links out of `docs/`, and a check that no page loads a resource from another site."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Any, Final

from mkdocs.exceptions import PluginError

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

_OUTWARD: Final = re.compile(r"\]\(((?:\.\./)+[^)\s]*)\)")
_LOADED: Final = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//"""
    r"""|<link\b(?=[^>]*\bstylesheet)[^>]*\bhref=["']?(?:https?:)?//"""
)


def on_page_markdown(markdown: str, /, *, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Make links that lead out of `docs/` lead to the repository."""
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def outward(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[1]))
        return link[0] if path.startswith("docs/") else f"]({config.extra['source']}/{path})"

    return _OUTWARD.sub(outward, markdown)


def on_post_page(output: str, /, *, page: Page, **_: Any) -> str:
    """Refuse a page that would load a resource from another site."""
    if found := _LOADED.search(output):
        raise PluginError(f"{page.file.src_uri}: {found[0]!r} is loaded from elsewhere; keep it in docs/")
    return output
