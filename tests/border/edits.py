"""
Manual edits of a consumer or a stream, generated from the fields of its configuration.

The fields are those that a server shows, those that nats-py declares, and the few that nats-py lacks.  Each field
gets values of its type; the server decides which of them it accepts, alone or with another edit.
"""

from __future__ import annotations

import dataclasses
import re
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from nats.js import api as nats_api
from nats.js.api import ConsumerConfig, StreamConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MILLISECOND: Final = 1_000_000
_SECOND: Final = 1_000 * _MILLISECOND

CONSUMER_FIELDS_BESIDE: Final = {
    # These fields are from ADR-42 and the limits of pull requests: nats-py 2.16 does not have them.
    "direct": "bool",
    "max_batch": "int",
    "max_bytes": "int",
    "max_expires": "float",
    "priority_groups": "List[str]",
    "priority_policy": "overflow|pinned_client|prioritized",
    "priority_timeout": "float",
    "sourcing": "bool",
}

STREAM_FIELDS_BESIDE: Final[dict[str, str]] = {}
"""Fields of nats-server 2.15 that nats-py 2.16 does not have and no server shows or accepts: none."""

FEEDER: Final = "feeder"
"""The stream that a mirror or a source reads."""

_TEXTS: Final = (FEEDER, "{stream}.a", "{stream}.>", "moved.{stream}", ">")
"""Values of the text fields of a stream's configuration: names, subjects and words."""


class Edit(NamedTuple):
    """
    A manual edit.

    Args:
        field: name of the field; the path with a dot for a nested one.
        changes: new value of each field, None to omit it; another field may have to change, too.

    """

    field: str
    changes: dict[str, Any]

    @property
    def name(self) -> str:
        """A description of the edit."""
        return ", ".join(f"{field}={value!r}" for field, value in self.changes.items())

    @property
    def is_text(self) -> bool:
        """True if the value is a text: a single one of these is enough."""
        value: Any = self.changes
        for step in self.field.split("."):
            inner = value[0] if isinstance(value, list) else value
            value = inner.get(step)
        return isinstance(value, str) and (value in _TEXTS or "T" in value)


def types_of(shown: Mapping[str, Any], declared: type, beside: Mapping[str, str]) -> dict[str, str]:
    """Return the fields of a configuration with their types in the notation of nats-py."""
    known = {field.name: _plain(field.type) for field in dataclasses.fields(declared)}
    return {name: _type_of(value) for name, value in shown.items()} | known | dict(beside)


def consumer_edits(shown: Mapping[str, Any], stream: str) -> list[Edit]:
    """Return the edits of a consumer of *stream* with these fields shown by the server."""
    types = types_of(shown, ConsumerConfig, CONSUMER_FIELDS_BESIDE)
    return [Edit(field, {field: value}) for field, kind in types.items() for value in values_of(kind, stream)]


def stream_edits(shown: Mapping[str, Any], stream: str) -> list[Edit]:
    """Return the edits of *stream* with these fields shown by the server: each value, and each field omitted."""
    types = types_of(shown, StreamConfig, STREAM_FIELDS_BESIDE)
    return [
        *(Edit(field, {field: None}) for field in shown if field != "name"),
        *(
            Edit(path, {field: value})
            for field, kind in types.items()
            for path, value in _stream_values(field, kind, stream)
        ),
    ]


def _stream_values(path: str, kind: str, stream: str) -> Iterator[tuple[str, Any]]:
    """Yield values of the type *kind* with their path, for a field or a nested one."""
    if match := re.fullmatch(r"List\[(\w+)\]", kind):
        for inner, value in _stream_values(path, match[1], stream) if _structure(match[1]) else ():
            yield inner, [value]
    if fields := _structure(kind):
        first = {
            name: next(_stream_values(name, of, stream))[1] for name, (of, is_needed) in fields.items() if is_needed
        }
        for name, (of, _) in fields.items():
            yield from ((inner, first | {name: value}) for inner, value in _stream_values(f"{path}.{name}", of, stream))
        return
    values: dict[str, list[Any]] = {
        "bool": [True, False],
        "str": [text.replace("{stream}", stream) for text in _TEXTS],
        "List[str]": [[f"{stream}.a"], [f"{stream}.a", f"{stream}.b"], [f"{stream}.>", f"more.{stream}"]],
    }
    yield from ((path, value) for value in values.get(kind) or values_of(kind, stream))


def _structure(kind: str) -> dict[str, tuple[str, bool]]:
    """Return the fields of a structure of nats-py with their types, and its required fields."""
    found = getattr(nats_api, kind, None)
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        return {}
    missing = dataclasses.MISSING
    return {
        field.name: (_plain(field.type), field.default is missing and field.default_factory is missing)
        for field in dataclasses.fields(found)
    }


def of_stream(changes: Mapping[str, Any], stream: str) -> dict[str, Any]:
    """Return *changes* with the name of *stream* filled in."""
    return {name: _named(value, stream) for name, value in changes.items()}


def values_of(kind: str, stream: str) -> list[Any]:
    """Return values of the type *kind*; the subjects are some of *stream*."""
    if enumeration := _enumeration(kind):
        return [member.value for member in enumeration]
    moments = [_moment(-3_600), _moment(3_600)]
    values: dict[str, list[Any]] = {
        "bool": [True],
        "int": [1, 7, 1_000],
        # Durations are nanoseconds on the wire.
        "float": [_MILLISECOND, 200 * _MILLISECOND, 2 * _SECOND, 3_600 * _SECOND],
        "str": [f"{stream}.a", ">", "border", "50", *moments],
        "datetime.datetime": moments,
        "List[str]": [[f"{stream}.a"], [f"{stream}.a", f"{stream}.b"], ["projector"], ["others"]],
        "List[float]": [[_MILLISECOND], [2 * _SECOND, 4 * _SECOND]],
        "Dict[str, str]": [{"edited": "by hand"}],
    }
    return values.get(kind, kind.split("|") if "|" in kind else [])


def _plain(kind: object) -> str:
    return re.sub(r"^Optional\[(.*)\]$", r"\1", str(kind))


def _named(value: Any, stream: str) -> Any:
    if isinstance(value, dict):
        return {name: _named(each, stream) for name, each in value.items()}
    if isinstance(value, list):
        return [_named(each, stream) for each in value]
    return value.replace("{stream}", stream) if isinstance(value, str) else value


def _type_of(value: object) -> str:
    return {bool: "bool", int: "int", str: "str", list: "List[str]", dict: "Dict[str, str]"}.get(type(value), "str")


def _enumeration(kind: str) -> type[Enum] | None:
    found = getattr(nats_api, kind, None)
    return found if isinstance(found, type) and issubclass(found, Enum) else None


def _moment(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
