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

SOURCES: Final = ("bench", "consumers", "docs", "examples", "noetl_events", "tests")
FOLDERS: Final = sorted({path.parent for source in SOURCES for path in (ROOT / source).rglob("*.py")})

_SENTENCE: Final = re.compile(r"(?:\A|(?<=[.!?:]\s)|(?<=[.!?]\s\s)|(?<=\n\n))\s*([A-Z]\w*)")
_OPENINGS: Final = frozenset({"How", "It", "One", "That", "What", "Whether", "Who", "Whoever"})
_PRONOUNS: Final = re.compile(
    r"\b(anybody|anyone|everybody|everyone|nobody|somebody|someone|who|whoever|whom|whose|we|our|ours|ourselves)\b",
    re.IGNORECASE,
)
_QUOTED: Final = re.compile(r"`[^`]*`|\"[^\"\n]*\"")


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


def unquoted(text: str) -> str:
    """Return *text* with its code and quotations masked, because the rules hold for the author's own words only."""
    return _QUOTED.sub(lambda match: "_" * len(match[0]), text)


def faults(path: Path) -> Iterator[str]:
    """Yield each place in *path* that breaks a rule, with its words."""
    for line, text in docstrings(path):
        for match in _SENTENCE.finditer(unquoted(text)):
            if match[1] in _OPENINGS:
                yield f"{path.name}:{line}: a sentence begins with {match[1]}: {text[match.start(1) :][:60]!r}"
    for line, text in (*docstrings(path), *comments(path)):
        for match in _PRONOUNS.finditer(unquoted(text)):
            yield f"{path.name}:{line}: name the process: {text[max(match.start() - 30, 0) : match.end() + 30]!r}"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_prose_is_plain(folder: Path) -> None:
    """No sentence of a docstring begins with a relative word, and no pronoun of a person stands for a process."""
    assert [fault for path in sorted(folder.glob("*.py")) for fault in faults(path)] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('"""Whether the server answers."""', ["a sentence begins with Whether"], id="opening"),
        pytest.param('"""Return it. It is new."""', ["a sentence begins with It"], id="second sentence"),
        pytest.param(
            'x = 1\n"""Whoever reads."""', ["a sentence begins with Whoever", "name the process"], id="attribute"
        ),
        pytest.param("x = 1  # nobody reads", ["name the process"], id="comment"),
        pytest.param('"""Return `who`, or "nobody is here"."""', [], id="quotation"),
        pytest.param('"""Return the Item."""', [], id="plain"),
        pytest.param('x = "What is it?"', [], id="text of the program"),
    ],
)
def test_faults_are_found(text: str, expected: list[str], tmp_path: Path) -> None:
    """A relative word at the start of a sentence and a pronoun of a person are found, except in quotations."""
    path = tmp_path / "example.py"
    path.write_text(text, encoding="utf-8")

    assert [fault.split(": ")[1] for fault in faults(path)] == expected
