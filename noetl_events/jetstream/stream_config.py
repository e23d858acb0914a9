"""
The configuration of a stream: the declared one and the server's, compared field by field.

    refused   a projector must not read the stream: it would take messages from other readers, or read a part only
    unsafe    events may be lost, or are not stored: the stream is read, and reported as unhealthy
    weaker    the stream differs from its declaration at the cost of a promise other than keeping events
    lacking   a capability of the server that can be switched on: served in a slower way without it
    told      without effect on the promises, but worth a remark

The server's JSON is compared, because a client library drops fields that it does not know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from noetl_events.jetstream.declarations import includes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from noetl_events.jetstream.declarations import StreamDeclaration

Weight: TypeAlias = Literal["refused", "unsafe", "weaker", "lacking", "told"]

BATCHED_SINCE: Final = (2, 14)
ATOMIC_SINCE: Final = (2, 12)

_SECOND: Final = 1_000_000_000
_SHORTEST_AGE: Final = 3_600 * _SECOND
# Names for the messages of a stream in explanations of its configuration.
_THINGS: Final = {"events": "events", "dead letters": "dead letters", "trials": "crash records"}
CAPABILITIES: Final = ("allow_direct", "allow_atomic", "allow_batched")
"""Capabilities that can be switched on, and never have to be switched off."""

_COMPARED: Final = (
    *CAPABILITIES,
    "allow_msg_counter",
    "allow_msg_ttl",
    "allow_rollup_hdrs",
    "consumer_limits",
    "deny_delete",
    "deny_purge",
    "discard",
    "discard_new_per_subject",
    "duplicate_window",
    "max_age",
    "max_bytes",
    "max_consumers",
    "max_msg_size",
    "max_msgs",
    "max_msgs_per_subject",
    "mirror",
    "no_ack",
    "num_replicas",
    "persist_mode",
    "retention",
    "sealed",
    "sources",
    "storage",
    "subject_transform",
    "subjects",
)
# The headers of a message show if the server itself wrote it, for markers and schedules, so these do no harm.
_HARMLESS: Final = (
    "allow_msg_schedules",
    "compression",
    "description",
    "first_seq",
    "metadata",
    "mirror_direct",
    "name",
    "placement",
    "republish",
    "subject_delete_marker_ttl",
    "template_owner",
)
KNOWN: Final = frozenset((*_COMPARED, *_HARMLESS))
"""Known fields of a stream's configuration."""


class Deviation(NamedTuple):
    """A difference of a stream: field, declared value, value on the server, and its effect."""

    field: str
    declared: object
    actual: object
    meaning: str
    weight: Weight

    def __str__(self) -> str:
        return f"{self.field}: {self.actual!r} on the server, {self.declared!r} declared: {self.meaning}"


def stream_config(declared: StreamDeclaration, version: tuple[int, int]) -> dict[str, Any]:
    """Return *declared* as the JSON for a server of *version*, without the fields that it would refuse as unknown."""
    return {
        "name": declared.name,
        "subjects": list(declared.subjects),
        "retention": "limits",
        "storage": "file",
        "max_age": round(declared.max_age * _SECOND),
        "max_bytes": declared.max_bytes,
        # A full stream refuses messages, and publishers keep them; "old" would drop messages that are not stored yet.
        "discard": "new" if declared.max_bytes > 0 else "old",
        "max_msgs_per_subject": declared.max_per_subject,
        "duplicate_window": round(declared.duplicate_window * _SECOND),
        "num_replicas": declared.replicas,
        **({"subject_transform": partition_transform(declared)} if declared.partitions else {}),
        "allow_direct": True,
        **({"allow_atomic": True} if version >= ATOMIC_SINCE else {}),
        **({"allow_batched": True} if version >= BATCHED_SINCE else {}),
    }


def partition_transform(declared: StreamDeclaration) -> dict[str, str]:
    """Return the transform that maps the subjects of *declared* to its partitions."""
    return _transform(f"{declared.prefix}.", declared.partitions)


def has_partitions(config: Mapping[str, Any], filter_subject: str, partitions: int) -> bool:
    """Return True if *filter_subject* is one of *partitions* partitions of a stream with *config*."""
    if config.get("mirror"):
        # A mirror has the messages of another stream, with the subjects that stream gave them.
        return True
    transform = config.get("subject_transform") or {}
    head = transform.get("src", "").removesuffix("*.>")
    return bool(head) and filter_subject.startswith(head) and transform == _transform(head, partitions)


def _transform(head: str, partitions: int) -> dict[str, str]:
    return {"src": f"{head}*.>", "dest": f"{head}{{{{partition({partitions},1)}}}}.{{{{wildcard(1)}}}}.>"}


def deviations(declared: StreamDeclaration, config: Mapping[str, Any], *, version: tuple[int, int]) -> list[Deviation]:
    """
    Return the fields of *config* that are not as *declared*, the gravest first.

    Args:
        declared: declaration of the stream.
        config: configuration on the server.
        version: version of the server.

    """
    wanted = stream_config(declared, version)
    comparison = _Comparison(declared, config, wanted)
    found = [
        *comparison.storing(),
        *comparison.subjects(),
        *comparison.retaining(),
        *comparison.limits(),
        *comparison.removing(),
        *comparison.capabilities(),
        *comparison.consumers(),
        *_unknown(config),
    ]
    order: tuple[Weight, ...] = ("refused", "unsafe", "weaker", "lacking", "told")
    return sorted(found, key=lambda deviation: order.index(deviation.weight))


def _unknown(config: Mapping[str, Any]) -> Iterator[Deviation]:
    for name, value in config.items():
        if value and name not in KNOWN:
            meaning = "this version of noetl-events knows neither the field nor its effect on messages"
            yield Deviation(name, None, value, meaning, "told")


class _Comparison:
    """The fields of a stream's configuration, compared in groups."""

    def __init__(self, declared: StreamDeclaration, config: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        self._declared = declared
        self._config = config
        self._wanted = wanted
        self._things = _THINGS[declared.kind]
        self._is_events = declared.kind == "events"
        self._mirrored = config.get("mirror") or {}
        self._sources = [source.get("name", "") for source in config.get("sources") or ()]

    def storing(self) -> Iterator[Deviation]:
        """Yield the deviations that keep messages from being stored, or stored well."""
        config, things = self._config, self._things
        if config.get("no_ack"):
            yield self._unset("no_ack", "the stream acknowledges no message, so no publish succeeds")
        if config.get("sealed"):
            yield self._unset("sealed", "the stream stores no new messages")
        if config.get("allow_msg_counter"):
            yield self._unset("allow_msg_counter", "the stream stores only counters")
        if config.get("persist_mode", "default") not in ("", "default"):
            meaning = f"the server acknowledges before it writes: acknowledged {things} are lost if it crashes"
            yield Deviation("persist_mode", "default", config["persist_mode"], meaning, "unsafe")
        if config.get("storage", "file") != "file":
            yield Deviation(
                "storage", "file", config["storage"], "the stream loses its messages when its servers stop", "unsafe"
            )
        if self._mirrored:
            yield self._mirror()
        if self._sources:
            meaning = "the stream also takes messages of other streams: each that is not an event becomes a dead letter"
            yield Deviation("sources", None, self._sources, meaning, "weaker" if self._is_events else "told")
        yield from self._replicas()

    def _mirror(self) -> Deviation:
        name = self._mirrored.get("name", "")
        if self._is_events:
            meaning = "a mirror can be projected and read only; to publish, name the mirrored stream"
            return Deviation("mirror", None, name, meaning, "weaker")
        return Deviation("mirror", None, name, "a mirror stores nothing that is published", "unsafe")

    def _replicas(self) -> Iterator[Deviation]:
        wanted, actual = self._declared.replicas, self._config.get("num_replicas", 1)
        if actual != wanted:
            meaning = f"{'fewer' if actual < wanted else 'more'} servers store the stream than declared"
            yield Deviation("num_replicas", wanted, actual, meaning, "weaker")

    def subjects(self) -> Iterator[Deviation]:
        """Yield the deviations of the subjects."""
        wanted, actual = self._declared.subjects, tuple(self._config.get("subjects") or ())
        # Messages from another stream may have any subject.
        is_fed = bool(self._mirrored) or (bool(self._sources) and not actual)
        missing = [subject for subject in wanted if not any(includes(each, subject) for each in actual)]
        if missing and not is_fed:
            meaning = f"the stream does not store messages published to {', '.join(missing)}"
            yield Deviation("subjects", list(wanted), list(actual), meaning, "unsafe")
        elif set(actual) != set(wanted) and not is_fed:
            more = ": each other message becomes a dead letter" if self._is_events else ""
            meaning = f"the stream takes more than {self._things}{more}"
            yield Deviation("subjects", list(wanted), list(actual), meaning, "weaker")
        yield from self._transform()

    def _transform(self) -> Iterator[Deviation]:
        wanted, actual = self._wanted.get("subject_transform"), self._config.get("subject_transform")
        if wanted == actual:
            return
        declared, found = wanted and wanted["dest"], actual and actual.get("dest")
        if wanted:
            meaning = "the stream has other partitions than the settings, so the projector would miss events"
            yield Deviation("subject_transform", declared, found, meaning, "refused")
        elif self._is_events:
            meaning = "the stream has partitions and the settings have none, so events are delivered in no order"
            yield Deviation("subject_transform", declared, found, meaning, "weaker")
        else:
            meaning = f"{self._things} are stored under other subjects, where readers do not find them"
            yield Deviation("subject_transform", declared, found, meaning, "weaker")

    def retaining(self) -> Iterator[Deviation]:
        """Yield the deviations of retention, age and duplicate window."""
        if (retention := self._config.get("retention", "limits")) != "limits":
            yield self._retention(retention)
        if self._declared.kind == "trials" or self._config.get("sealed"):
            return
        yield from self._time(
            "max_age", short=f"{self._things} are deleted at that age, needed or not", long=f"{self._things} are kept"
        )
        if self._is_events and not self._mirrored:
            short = "an event that is published again after that time is stored twice"
            yield from self._time("duplicate_window", short=short, long="the server keeps message ids in memory")

    def _retention(self, retention: str) -> Deviation:
        kinds = {
            "interest": f"{self._things} are stored only while a consumer exists",
            "workqueue": f"only one consumer gets {self._things}: other clients can neither read nor list them",
        }
        graver: Weight = "refused" if self._is_events else "unsafe" if retention == "interest" else "weaker"
        return Deviation(
            "retention",
            "limits",
            retention,
            kinds.get(retention, "this version of noetl-events does not know this retention"),
            graver,
        )

    def _time(self, field: str, *, short: str, long: str) -> Iterator[Deviation]:
        wanted, actual = self._wanted[field], self._config.get(field, 0)
        if wanted != actual:
            # An age of 0 means for ever.
            is_shorter = bool(actual) and (not wanted or actual < wanted)
            meaning = short if is_shorter else f"{long} longer than declared"
            # An outage of an hour would lose messages, so a shorter age is unsafe whatever age is declared.
            weight: Weight = "unsafe" if field == "max_age" and is_shorter and actual < _SHORTEST_AGE else "weaker"
            yield Deviation(field, wanted / _SECOND, actual / _SECOND, meaning, weight)

    def limits(self) -> Iterator[Deviation]:
        """Yield the deviations of limits on the number and size of messages."""
        config, things = self._config, self._things
        size, count = config.get("max_bytes", -1), config.get("max_msgs", -1)
        limits = [f"{field} {value:,}" for field, value in (("max_bytes", size), ("max_msgs", count)) if value > 0]
        if limits and config.get("discard", "old") == "old":
            meaning = f"beyond {' or '.join(limits)} the oldest {things} are dropped, stored elsewhere or not"
            yield Deviation("discard", "new", "old", meaning, "unsafe")
        if size != self._declared.max_bytes and (size > 0 or self._declared.max_bytes > 0):
            meaning = f"the stream holds {f'at most {size:,} bytes' if size > 0 else 'more than declared'}"
            yield Deviation("max_bytes", self._declared.max_bytes, size, meaning, "weaker")
        if count > 0:
            yield Deviation("max_msgs", -1, count, f"the stream holds at most {count:,} {things}", "weaker")
        yield from self._per_subject()
        if (largest := config.get("max_msg_size", -1)) > 0:
            held = "" if self._is_events else ", and a refused one blocks the projector"
            yield Deviation("max_msg_size", -1, largest, f"the server refuses larger {things}{held}", "weaker")

    def _per_subject(self) -> Iterator[Deviation]:
        wanted, actual = self._declared.max_per_subject, self._config.get("max_msgs_per_subject", -1)
        if actual in (wanted, max(wanted, 0)):
            return
        if self._declared.kind == "trials":
            yield Deviation(
                "max_msgs_per_subject", wanted, actual, "crash records that are no longer read are kept", "told"
            )
        elif self._config.get("discard_new_per_subject"):
            meaning = f"the server refuses {self._things} of a subject that has {actual:,} of them"
            yield Deviation("discard_new_per_subject", declared=False, actual=True, meaning=meaning, weight="unsafe")
        else:
            meaning = (
                f"the stream keeps only the last {actual:,} {self._things} of each subject, stored elsewhere or not"
            )
            yield Deviation("max_msgs_per_subject", wanted, actual, meaning, "unsafe")

    def removing(self) -> Iterator[Deviation]:
        """Yield the deviations that allow or forbid removing messages."""
        for field, verb in (("deny_delete", "removed"), ("deny_purge", "purged")):
            if self._config.get(field) and not self._config.get("sealed"):
                more = ", not even by `dead retry` and `dead purge`" if self._declared.kind == "dead letters" else ""
                yield self._unset(field, f"{self._things} cannot be {verb}{more}", "weaker")
        for field, header in (("allow_rollup_hdrs", "Nats-Rollup"), ("allow_msg_ttl", "Nats-TTL")):
            if self._config.get(field) and self._is_events:
                yield self._unset(field, f"a publisher can remove events with the header {header}", "told")

    def capabilities(self) -> Iterator[Deviation]:
        """Yield the capabilities that the server has and the stream lacks."""
        if self._mirrored or self._config.get("sealed") or self._config.get("allow_msg_counter"):
            return
        for field in CAPABILITIES:
            is_possible = field != "allow_atomic" or self._config.get("persist_mode", "default") in ("", "default")
            if self._wanted.get(field) and is_possible and not self._config.get(field):
                # A projector reads its crash records only by direct gets.
                is_needed = field == "allow_direct" and self._declared.kind == "trials"
                weight: Weight = "unsafe" if is_needed else "lacking"
                yield Deviation(field, declared=True, actual=False, meaning=_LACKING[field], weight=weight)

    def consumers(self) -> Iterator[Deviation]:
        """Yield the deviations of limits for the stream's consumers."""
        limits = self._config.get("consumer_limits") or {}
        if (idle := limits.get("inactive_threshold")) and self._is_events:
            meaning = (
                f"the server deletes a consumer without requests for {idle / _SECOND:g} s: a projector that is down "
                "longer recreates its own, and reads the stream from its start"
            )
            yield Deviation("consumer_limits", None, {"inactive_threshold": idle / _SECOND}, meaning, "told")
        if (pending := limits.get("max_ack_pending")) and self._is_events:
            meaning = f"a consumer may have at most {pending:,} unacknowledged events"
            yield Deviation("consumer_limits", None, {"max_ack_pending": pending}, meaning, "told")
        if (most := self._config.get("max_consumers", -1)) > 0 and self._declared.kind != "trials":
            meaning = f"the server refuses a projector, verify, rebuild or tail if the stream has {most} consumers"
            yield Deviation("max_consumers", -1, most, meaning, "weaker")

    def _unset(self, field: str, meaning: str, weight: Weight = "unsafe") -> Deviation:
        return Deviation(field, declared=False, actual=True, meaning=meaning, weight=weight)


_LACKING: Final = {
    "allow_direct": "messages can be read only through the stream's leader, and a projector's crash records not at all",
    "allow_atomic": "events are stored one by one instead of in atomic batches, which takes the server more work",
    "allow_batched": "events are stored one by one, which takes several times as long as in batches",
}
