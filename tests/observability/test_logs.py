"""Logs: a line for each event, safe for a terminal, and readable by machines."""

from __future__ import annotations

import json
import logging
import warnings
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import structlog
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from consumers import logs

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTILE = "a\x1b[2J\x1b]0;t\x07\r\n2026-01-01 [info] forged\u202e\x9b31m"
SPAN = NonRecordingSpan(SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1)))


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers = list(root.handlers)
    yield
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers


def printed(capsys: pytest.CaptureFixture[str], form: str, **values: Any) -> str:
    """Return the log output of *values*."""
    logs.configure("info", form)
    structlog.get_logger().warning("a.thing", **values)
    return capsys.readouterr().err


def test_people_read_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    """On a console a hostile value, name or container can neither move the cursor nor forge a line."""
    out = printed(capsys, "console", reason=HOSTILE, many=[HOSTILE], raw=HOSTILE.encode(), **{HOSTILE: "x"})

    assert out.count("\n") == 1
    assert out.rstrip("\n").isprintable()
    assert r"\x1b[2J" in out


def test_exception_on_a_console(capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback keeps its lines, each indented, and its text is escaped."""
    logs.configure("info", "console")
    try:
        dict[str, str]()[HOSTILE]
    except KeyError:
        structlog.get_logger().exception("it.failed")
    first, *more = capsys.readouterr().err.rstrip("\n").split("\n")

    assert "it.failed" in first
    assert all(line.isprintable() for line in more)
    assert not [line for line in more[1:] if line and not line.startswith("    ")]


def test_machines_read_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON any value is one line, which can be parsed back."""
    out = printed(capsys, "json", reason=HOSTILE, raw=b"\xff", lone="\ud800")

    assert out.count("\n") == 1
    assert out.rstrip("\n").isprintable()
    assert json.loads(out)["reason"] == HOSTILE


def test_exception_as_json_has_no_locals(capsys: pytest.CaptureFixture[str]) -> None:
    """An exception is part of its line, with its frames and without their variables."""
    logs.configure("info", "json")
    secret = "of-this-frame"
    try:
        int(f"bad{secret[:0]}")
    except ValueError:
        structlog.get_logger().exception("it.failed")
    out = capsys.readouterr().err

    assert out.count("\n") == 1
    assert msgspec.json.decode(out)["exception"][0]["exc_type"] == "ValueError"
    assert secret not in out


@pytest.mark.parametrize("form", ["json", "console"])
def test_span_is_named(capsys: pytest.CaptureFixture[str], form: str) -> None:
    """A line logged within a span has its ids, a line outside has none."""
    with trace.use_span(SPAN):
        inside = printed(capsys, form)

    assert f"{1:032x}" in inside
    assert f"{2:016x}" in inside
    assert "trace_id" not in printed(capsys, form)


def test_libraries_log_alike(capsys: pytest.CaptureFixture[str]) -> None:
    """Log lines of libraries and warnings of Python are JSON too, and appear once if configured twice."""
    logs.configure("info", "json")
    logs.configure("info", "json")
    logging.getLogger("some.library").warning("it %s", "failed")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    first, second = (msgspec.json.decode(line) for line in capsys.readouterr().err.splitlines())

    assert (first["event"], first["logger"], first["level"]) == ("it failed", "some.library", "warning")
    assert "DeprecationWarning: old" in second["event"]


@pytest.mark.parametrize(("level", "form"), [("loud", "auto"), ("info", "xml")])
def test_unknown_choice(level: str, form: str) -> None:
    """An unknown level or format is refused with the valid ones."""
    with pytest.raises(ValueError, match=r"is not one of"):
        logs.configure(level, form)
