"""
Ways in which a consumer or a stream can be edited by hand, generated from the fields of its configuration.

The fields are those that a server shows, those that nats-py declares, and the few that nats-py lacks.  Each gets values
by its type; which of them a server takes, alone or beside another edit, the server says.
"""

from __future__ import annotations

import dataclasses
import re
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from nats.js import api as nats_api
from nats.js.api import ConsumerConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

_MILLISECOND: Final = 1_000_000
_SECOND: Final = 1_000 * _MILLISECOND

CONSUMER_FIELDS_BESIDE: Final = {
    # ADR-42, and the limits of pull requests: nats-py 2.16 has no fields for them.
    "direct": "bool",
    "max_batch": "int",
    "max_bytes": "int",
    "max_expires": "float",
    "priority_groups": "List[str]",
    "priority_policy": "overflow|pinned_client|prioritized",
    "priority_timeout": "float",
    "sourcing": "bool",
}


class Edit(NamedTuple):
    """
    One edit by hand.

    Args:
        field: that it is about.
        changes: the fields with their new values; another one may have to change with it.

    """

    field: str
    changes: dict[str, Any]

    @property
    def name(self) -> str:
        """What is edited, in words."""
        return ", ".join(f"{field}={value!r}" for field, value in self.changes.items())


def types_of(shown: Mapping[str, Any], declared: type, beside: Mapping[str, str]) -> dict[str, str]:
    """Return the fields of a configuration with their types, as nats-py writes them."""
    known = {
        field.name: re.sub(r"^Optional\[(.*)\]$", r"\1", str(field.type)) for field in dataclasses.fields(declared)
    }
    return {name: _type_of(value) for name, value in shown.items()} | known | dict(beside)


def consumer_edits(shown: Mapping[str, Any], stream: str) -> list[Edit]:
    """Return the edits of a consumer of *stream* that a server shows with these fields."""
    types = types_of(shown, ConsumerConfig, CONSUMER_FIELDS_BESIDE)
    return [Edit(field, {field: value}) for field, kind in types.items() for value in values_of(kind, stream)]


def of_stream(changes: Mapping[str, Any], stream: str) -> dict[str, Any]:
    """Return *changes* with the name of *stream* where it is left open."""
    return {name: _named(value, stream) for name, value in changes.items()}


def values_of(kind: str, stream: str) -> list[Any]:
    """Return values of the type *kind*; subjects are some of *stream*."""
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


def _named(value: Any, stream: str) -> Any:
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
