"""The language of docstrings and comments: full sentences with a noun for a subject."""

from __future__ import annotations

import ast
import re
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[1]

PLAIN: Final[tuple[str, ...]] = (
    "bench",
    "consumers",
    "consumers/cli",
    "consumers/dead_letters",
    "consumers/demo",
    "consumers/doctor",
    "consumers/gateway",
    "consumers/permissions",
    "consumers/projector",
    "consumers/settings",
    "consumers/sinks",
    "consumers/sinks/postgres",
    "consumers/verification",
    "docs/tools",
    "noetl_events",
    "noetl_events/jetstream",
    "noetl_events/jetstream/connect",
    "noetl_events/jetstream/consume",
    "noetl_events/jetstream/publish",
    "noetl_events/sinks",
    "noetl_events/sinks/http",
    "noetl_events/sinks/spool",
    "noetl_events/testing",
    "tests",
    "tests/border",
    "tests/cli",
    "tests/dead_letters",
    "tests/deploy",
    "tests/docs",
    "tests/doctor",
    "tests/envelope",
    "tests/faults",
    "tests/faults/campaign",
    "tests/fuzz",
    "tests/gateway",
    "tests/jetstream",
    "tests/mutants",
    "tests/mutations",
    "tests/observability",
    "tests/parity",
    "tests/permissions",
    "tests/projector",
    "tests/rebuild",
    "tests/release",
    "tests/settings",
    "tests/simulation",
    "tests/sinks",
    "tests/spool",
    "tests/testing_kit",
    "tests/typing",
    "tests/verify",
)
"""The folders that follow the rules; a folder is added once all of its files do."""

_SENTENCE: Final = re.compile(r"(?:\A|(?<=[.!?:]\s)|(?<=[.!?]\s\s)|(?<=\n\n))\s*([A-Z]\w*)")
_OPENINGS: Final = frozenset({"How", "It", "One", "That", "What", "Whether", "Who", "Whoever"})
_PRONOUNS: Final = re.compile(
    r"\b(anybody|anyone|everybody|everyone|nobody|somebody|someone|who|whoever|whom|whose)\b", re.IGNORECASE
)


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of each docstring in *path*, those of attributes included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        body = getattr(node, "body", None)
        for each in body if isinstance(body, list) else []:
            if (
                isinstance(each, ast.Expr)
                and isinstance(each.value, ast.Constant)
                and isinstance(each.value.value, str)
            ):
                yield each.lineno, each.value.value.strip()


def comments(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of each comment in *path*."""
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


def faults(path: Path) -> Iterator[str]:
    """Yield each place in *path* that breaks a rule, with its words."""
    for line, text in docstrings(path):
        for match in _SENTENCE.finditer(text):
            if match[1] in _OPENINGS:
                yield f"{path.name}:{line}: a sentence begins with {match[1]}: {text[match.start(1) :][:60]!r}"
    for line, text in (*docstrings(path), *comments(path)):
        for match in _PRONOUNS.finditer(text):
            yield f"{path.name}:{line}: name the process: {text[max(match.start() - 30, 0) : match.end() + 30]!r}"


@pytest.mark.parametrize("folder", PLAIN)
def test_prose_is_plain(folder: str) -> None:
    """No sentence of a docstring begins with a relative word, and no pronoun of a person stands for a process."""
    files = sorted((ROOT / folder).glob("*.py"))

    assert files
    assert [fault for path in files for fault in faults(path)] == []
