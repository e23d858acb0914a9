"""
The configuration of a durable consumer: the declared one and the server's, compared field by field.

    refused      a field that keeps full messages from a client, such as another start or a filter
    observed     limits of requests, and waits: requests stay within them
    reported     a field that deletes the consumer, or is unknown to this version: served, with a warning
    ignored      name, description, metadata, replicas, sampling

The server's JSON is compared, because a client library drops fields that it does not know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from noetl_events.jetstream.declarations import GROUP
from noetl_events.jetstream.errors import Difference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from noetl_events.jetstream.declarations import ConsumerDeclaration

_SECOND: Final = 1_000_000_000
# With a shorter ack wait, messages are redelivered while they are written, and extending it would take all the time.
_SHORTEST_WAIT: Final = 1.0
# Shorter requests end before the next one can sensibly be sent.
_SHORTEST_REQUEST: Final = 0.1

_OURS: Final = {"noetl-events": "projector"}

_LATER: Final = "the consumer does not begin with the first message of the stream"
_PUSHED: Final = "this is a push consumer, and a projector needs a pull consumer"
_FILTERED: Final = "the consumer leaves out messages of the stream"


class ConsumerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """
    Limits that the pullers of a consumer observe.

    Args:
        ack_wait: seconds until an unacknowledged message is delivered again.
        pin_ttl: seconds without a request after which the server unpins the client of an exclusive consumer.
        batch: most messages of one request; 0 without a limit.
        expires: most seconds one request may wait; 0 without a limit.
        bytes: most bytes of one request; 0 without a limit.
        waiting: most requests of all clients that may wait; 0 without a limit.

    """

    ack_wait: float = 30.0
    pin_ttl: float = 10.0
    batch: int = 0
    expires: float = 0.0
    bytes: int = 0
    waiting: int = 0


class _Field(NamedTuple):
    """A field that must be as declared: its value if it is not set, and the effect of another value."""

    unset: object
    meaning: str


_REQUIRED: Final = {
    "deliver_policy": _Field("all", _LATER),
    "opt_start_seq": _Field(0, _LATER),
    "opt_start_time": _Field(None, _LATER),
    "ack_policy": _Field("explicit", "a message counts as acknowledged before its event is stored"),
    "max_deliver": _Field(-1, "the server gives up on a message after that many deliveries, stored or not"),
    "replay_policy": _Field("instant", "the consumer delivers as slowly as the messages were published"),
    "rate_limit_bps": _Field(0, "the consumer delivers no faster than that"),
    "headers_only": _Field(unset=False, meaning="the consumer delivers messages without their bodies"),
    "deliver_subject": _Field("", _PUSHED),
    "deliver_group": _Field("", _PUSHED),
    "flow_control": _Field(unset=False, meaning=_PUSHED),
    "idle_heartbeat": _Field(0, _PUSHED),
    "direct": _Field(unset=False, meaning="the consumer belongs to the server, as the source of another stream"),
    "sourcing": _Field(unset=False, meaning="the consumer belongs to the server, as the source of another stream"),
    "priority_groups": _Field([], "the consumer serves only clients that name one of these groups"),
    "priority_policy": _Field("", "the consumer does not serve all clients alike"),
}
# These fields are compared separately.
_FILTERS: Final = ("filter_subject", "filter_subjects")
_LIMITS: Final = (
    "ack_wait",
    "backoff",
    "max_ack_pending",
    "max_batch",
    "max_bytes",
    "max_expires",
    "max_waiting",
    "priority_timeout",
)
_REPORTED: Final = ("durable_name", "inactive_threshold", "mem_storage")
_HARMLESS: Final = ("description", "metadata", "name", "num_replicas", "pause_until", "sample_freq")
KNOWN: Final = frozenset((*_REQUIRED, *_FILTERS, *_LIMITS, *_REPORTED, *_HARMLESS))
"""Known fields of a consumer's configuration."""


def config_of(declared: ConsumerDeclaration) -> dict[str, Any]:
    """Return *declared* as the JSON of the server's API."""
    filters = declared.filter_subjects
    pinned = {
        "priority_groups": [GROUP],
        "priority_policy": "pinned_client",
        "priority_timeout": round(declared.pin_ttl * _SECOND),
    }
    return {
        "durable_name": declared.name,
        "metadata": _OURS,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "replay_policy": "instant",
        "ack_wait": round(declared.ack_wait * _SECOND),
        # After a finite number of deliveries a message would stay in the stream, but vanish from the lag.
        "max_deliver": -1,
        "max_ack_pending": declared.max_ack_pending,
        **({"filter_subject": filters[0]} if len(filters) == 1 else {}),
        **({"filter_subjects": [*filters]} if len(filters) > 1 else {}),
        **(pinned if declared.exclusive else {}),
    }


def is_of_a_projector(config: Mapping[str, Any]) -> bool:
    """Return True if a projector has created the consumer with *config*."""
    return _OURS.items() <= (config.get("metadata") or {}).items()


def filters_of(config: Mapping[str, Any]) -> frozenset[str]:
    """Return the filter subjects of a consumer with *config*; empty if it has none."""
    one = config.get("filter_subject")
    return frozenset([*([one] if one else []), *(config.get("filter_subjects") or [])])


def essence_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of *config* that affect deliveries."""
    return {name: value for name, value in config.items() if name not in _HARMLESS}


def differences(
    declared: ConsumerDeclaration, config: Mapping[str, Any], *, delivers_all: bool = False
) -> list[Difference]:
    """
    Return the fields of *config* that forbid a projector to read the consumer.

    Args:
        declared: declaration of the consumer.
        config: configuration on the server.
        delivers_all: True if its filters are known to match every message of the stream.

    """
    wanted = config_of(declared)
    found = [
        Difference(name, wanted.get(name, field.unset), actual, _meaning(name, field, declared, config))
        for name, field in _REQUIRED.items()
        if (actual := config.get(name) or field.unset) != wanted.get(name, field.unset)
    ]
    if filters_of(config) != filters_of(wanted) and not (delivers_all and not declared.filter_subjects):
        name = "filter_subjects" if config.get("filter_subjects") else "filter_subject"
        found.append(Difference(name, _shown(filters_of(wanted)), _shown(filters_of(config)), _FILTERED))
    return [*found, *_too_short(declared, config)]


def limits_of(declared: ConsumerDeclaration, config: Mapping[str, Any]) -> ConsumerLimits:
    """Return the limits that the pullers of a consumer with *config* observe."""
    return ConsumerLimits(
        ack_wait=min([config.get("ack_wait", 0), *(config.get("backoff") or [])]) / _SECOND or declared.ack_wait,
        pin_ttl=config.get("priority_timeout", 0) / _SECOND or declared.pin_ttl,
        batch=config.get("max_batch", 0),
        expires=config.get("max_expires", 0) / _SECOND,
        bytes=config.get("max_bytes", 0),
        waiting=config.get("max_waiting", 0),
    )


def remarks(declared: ConsumerDeclaration, config: Mapping[str, Any]) -> dict[str, str]:
    """Return a remark for each field of *config* that deserves a warning, though the consumer is read."""
    return dict([*_adapted(declared, config), *_reported(config)])


def _adapted(declared: ConsumerDeclaration, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    limits, wanted = limits_of(declared, config), config_of(declared)
    if limits.ack_wait != declared.ack_wait:
        name = "backoff" if config.get("backoff") else "ack_wait"
        yield name, f"{limits.ack_wait:g} s instead of {declared.ack_wait:g} s; the projector keeps to it"
    if declared.exclusive and limits.pin_ttl != declared.pin_ttl:
        yield "priority_timeout", f"{limits.pin_ttl:g} s instead of {declared.pin_ttl:g} s; the projector keeps to it"
    if (pending := config.get("max_ack_pending", 0)) != wanted["max_ack_pending"]:
        words = "" if pending < 0 or pending > declared.max_ack_pending else ", so delivery pauses earlier"
        yield "max_ack_pending", f"{pending} instead of {declared.max_ack_pending}{words}"
    for name, value, unit in (
        ("max_batch", limits.batch, "messages"),
        ("max_expires", limits.expires, "s"),
        ("max_bytes", limits.bytes, "bytes"),
    ):
        if value:
            yield name, f"requests ask for at most {value:g} {unit}"


def _reported(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    again = "then the projector recreates it, and reads the stream again from its start"
    if idle := config.get("inactive_threshold"):
        yield (
            "inactive_threshold",
            f"the server deletes the consumer after {idle / _SECOND:g} s without requests: {again}",
        )
    if not config.get("durable_name"):
        yield (
            "durable_name",
            f"the consumer is not durable, so the server deletes it when no projector sends requests: {again}",
        )
    if config.get("mem_storage"):
        yield "mem_storage", f"the consumer loses its position when its servers stop: {again}"
    for name, value in config.items():
        if value and name not in KNOWN:
            yield name, f"{value!r}: this version of noetl-events knows neither the field nor its effect on deliveries"


def _too_short(declared: ConsumerDeclaration, config: Mapping[str, Any]) -> Iterator[Difference]:
    limits = limits_of(declared, config)
    if limits.ack_wait < min(_SHORTEST_WAIT, declared.ack_wait):
        name, meaning = (
            "backoff" if config.get("backoff") else "ack_wait",
            "messages are redelivered during their write",
        )
        yield Difference(name, declared.ack_wait, limits.ack_wait, f"{meaning}; at least {_SHORTEST_WAIT:g} s")
    if declared.exclusive and limits.pin_ttl < min(_SHORTEST_WAIT, declared.pin_ttl):
        meaning = f"the server switches replicas without need; at least {_SHORTEST_WAIT:g} s"
        yield Difference("priority_timeout", declared.pin_ttl, limits.pin_ttl, meaning)
    if 0 < limits.expires < _SHORTEST_REQUEST:
        meaning = f"requests end before a message can arrive; at least {_SHORTEST_REQUEST:g} s"
        yield Difference("max_expires", None, limits.expires, meaning)


def _meaning(name: str, field: _Field, declared: ConsumerDeclaration, config: Mapping[str, Any]) -> str:
    if name not in ("priority_groups", "priority_policy"):
        return field.meaning
    if declared.exclusive and not config.get("priority_policy"):
        return "the consumer was created without --standby"
    if (config.get("priority_groups"), config.get("priority_policy")) == ([GROUP], "pinned_client"):
        return "the consumer was created with --standby"
    return field.meaning


def _shown(filters: frozenset[str]) -> object:
    return sorted(filters) if len(filters) > 1 else next(iter(filters), "")
