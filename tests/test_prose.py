"""The language of docstrings, comments and names: full sentences with a noun for a subject, and no gestures."""

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
_GESTURES: Final = {
    "begin": "start",
    "forget": "clear, remove, discard",
    "hear": "on_reply, last_arrival",
    "hurry": "stop_soon",
    "insist": "retry",
    "keep": "store, retain",
    "leave": "cancel, release",
    "let": "allow, release",
    "look": "fetch, check, find, compare",
    "meet": "accept, record",
    "miss": "lack, record",
    "note": "record, log",
    "take": "acquire, pop, accept",
    "tell": "publish, log, report",
}
"""Verbs that name no operation, each with verbs that do."""
_FORMS: Final = {
    form: verb
    for verb in _GESTURES
    for form in (verb, f"{verb}s", f"{verb}es", f"{verb}ing", f"{verb[:-1]}ing", f"{verb}{verb[-1]}ing")
} | {"begun": "begin", "heard": "hear", "hurries": "hurry", "looked": "look", "noted": "note", "told": "tell"}
_ALLOWED_NAMES: Final = {
    "keep_alive": "the term of HTTP and of TCP",
    "keeps_events": "an attribute of `SinkContract` that the sinks of others set",
    "look_up": "the verb of the noun lookup",
    "missing": "an adjective",
    "on_message_begin": "a callback of uvicorn's protocol",
}
"""Names, or parts of names, with such a word, each with the reason."""

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


def names(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and name of each function, class and attribute that *path* defines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield node.lineno, name
            case _:
                pass


def gestures(path: Path) -> Iterator[str]:
    """Yield each name in *path* with a verb of gesture, and the verbs to use instead."""
    for line, name in names(path):
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
        for allowed in _ALLOWED_NAMES:
            words = re.sub(rf"(?<![a-z]){allowed}(?![a-z])", "", words)
        for verb in {_FORMS[word] for word in words.split("_") if word in _FORMS}:
            yield f"{path.name}:{line}: {name}: instead of {verb} use {_GESTURES[verb]}"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_prose_is_plain(folder: Path) -> None:
    """No sentence of a docstring begins with a relative word, and no pronoun of a person stands for a process."""
    assert [fault for path in sorted(folder.glob("*.py")) for fault in faults(path)] == []


@pytest.mark.parametrize("package", ["consumers", "noetl_events"])
def test_names_are_no_gestures(package: str) -> None:
    """Functions, classes and attributes are named by operations, not by gestures such as look, tell or take."""
    assert [fault for path in sorted((ROOT / package).rglob("*.py")) for fault in gestures(path)] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("def look_at(): pass", ["look_at"], id="function"),
        pytest.param("async def _keep_asking(): pass", ["_keep_asking"], id="inflected"),
        pytest.param("class NoteTaker: pass", ["NoteTaker"], id="class"),
        pytest.param("self._is_told = True", ["_is_told"], id="attribute"),
        pytest.param("x: int = 1\nforgets: int = 2", ["forgets"], id="field"),
        pytest.param("def keep_alive(): pass\ndef until_keep_alive(): pass", [], id="allowed"),
        pytest.param("class StreamMissing: pass\ndef outlook(): pass", [], id="other words"),
        pytest.param("look = take()", [], id="local name"),
    ],
)
def test_gestures_are_found(text: str, expected: list[str], tmp_path: Path) -> None:
    """Gestures in names are found in every form; allowed names and local variables are not."""
    path = tmp_path / "example.py"
    path.write_text(text, encoding="utf-8")

    assert [fault.split(": ")[1] for fault in gestures(path)] == expected


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
