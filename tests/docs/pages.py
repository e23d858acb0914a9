"""The pages of the documentation, and the facts in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("deploy/**/README.md")])

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"(?<!\\)\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
_NOT_IN_A_SLUG = re.compile(r"[^\w\- ]")


class Block(NamedTuple):
    """A block of code on a page."""

    page: Path
    language: str
    text: str

    @property
    def name(self) -> str:
        """The page and the first lines, for the list of tests."""
        return f"{self.page.relative_to(ROOT)}: {self.text[:30].splitlines()[0]}"


def blocks(language: str) -> list[Block]:
    """Return every block of *language*, of every page."""
    return [
        Block(page, language, text)
        for page in PAGES
        for _, found, text in _BLOCK.findall(page.read_text())
        if found == language
    ]


def links(page: Path) -> list[str]:
    """Return the targets of the links and pictures of *page*."""
    return _LINK.findall(_CODE.sub("", _prose(page)))


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of *page*, as GitHub makes them."""
    return set(_slugs(_HEADING.findall(_prose(page))))


def _prose(page: Path) -> str:
    return _BLOCK.sub("", page.read_text())


def _slugs(headings: list[str]) -> Iterator[str]:
    seen: dict[str, int] = {}
    for heading in headings:
        slug = _NOT_IN_A_SLUG.sub("", heading.lower()).replace(" ", "-")
        count = seen[slug] = seen.get(slug, -1) + 1
        yield f"{slug}-{count}" if count else slug
