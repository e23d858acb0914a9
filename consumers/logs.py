"""
The log of a process: one line per event on standard error, as text on a terminal and as JSON elsewhere.

Text of unknown origin is escaped, because unprintable characters could move a terminal's cursor.
"""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
import structlog
from structlog.processors import ExceptionRenderer, JSONRenderer, TimeStamper, add_log_level, format_exc_info
from structlog.tracebacks import ExceptionDictTransformer

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger


def escaped(text: str, *, allowed: str = "") -> str:
    r"""Return *text* with unprintable characters, except those in *allowed*, escaped as in Python: `\x1b`, `\u202e`."""
    return "".join(char if char.isprintable() or char in allowed else _in_python(char) for char in text)


def escaped_json(value: object) -> str:
    r"""Return *value* as JSON in one line, with unprintable characters escaped as `\u001b`; its value is the same."""
    text = msgspec.json.encode(value).decode()
    return "".join(char if char.isprintable() else _in_json(char) for char in text)


def _in_python(char: str) -> str:
    return char.encode("unicode_escape").decode()


def _in_json(char: str) -> str:
    units = char.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


LogFormat = Literal["auto", "json", "console"]

_FORMATS: Final = ("auto", "json", "console")


def configure(level: str = "info", form: str = "auto") -> None:
    """
    Log from *level* up: as JSON, as text, or, with "auto", as text on a terminal and as JSON elsewhere.

    Log records of libraries, from warnings up, have the same format, and tracebacks at the level debug only.

    Raises:
        ValueError: the level or the format is unknown.

    """
    levels = logging.getLevelNamesMapping()
    if level.upper() not in levels:
        raise ValueError(f"log level: {level!r} is not one of debug, info, warning, error")
    if form not in _FORMATS:
        raise ValueError(f"log format: {form!r} is not one of {', '.join(_FORMATS)}")
    people = sys.stderr.isatty() if form == "auto" else form == "console"
    shared: list[Processor] = [add_log_level, TimeStamper(fmt="iso", utc=True), add_trace]
    ending = _for_people() if people else _for_machines()
    structlog.configure(
        processors=[*shared, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(levels[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    _redirect_libraries(shared, ending, verbose=level.lower() == "debug")


def add_trace(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Add the ids of the current span, if there is one; a process without OpenTelemetry has none."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is not None and (context := trace.get_current_span().get_span_context()).is_valid:
        event["trace_id"] = f"{context.trace_id:032x}"
        event["span_id"] = f"{context.span_id:016x}"
    return event


def shorten(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replace the traceback of a library's record by its error and position; not used at the level debug."""
    raised = event.pop("exc_info", None)
    exc = raised[1] if isinstance(raised, tuple) else raised
    if isinstance(exc, BaseException):
        frames = traceback.extract_tb(exc.__traceback__)
        where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
        event["error"] = f"{type(exc).__name__}: {exc}{where}"
    return event


def escape_values(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Escape text that could move a terminal's cursor, or forge a line that looks like another event."""
    return {escaped(name): _harmless(name, value) for name, value in event.items()}


def _harmless(name: str, value: Any) -> Any:
    if name == "exception":
        return escaped(str(value), allowed="\n").replace("\n", "\n    ")
    if value is None or isinstance(value, bool | int | float):
        return value
    return escaped(value if isinstance(value, str) else repr(value))


def _for_people() -> list[Processor]:
    return [format_exc_info, escape_values, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]


def _for_machines() -> list[Processor]:
    # Local variables are excluded, because they may contain a password.
    return [ExceptionRenderer(ExceptionDictTransformer(show_locals=False, max_frames=20)), JSONRenderer()]


def _redirect_libraries(shared: list[Processor], ending: list[Processor], *, verbose: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.set_name(__name__)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared, *([] if verbose else [shorten])],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    root = logging.getLogger()
    for old in [each for each in root.handlers if each.get_name() == __name__]:
        root.removeHandler(old)
    root.addHandler(handler)
    logging.captureWarnings(capture=True)
