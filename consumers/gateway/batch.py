"""The bodies that bring events: one event, or many with what they have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Raw, structs

from consumers.gateway.refusal import Fault, Refused
from noetl_events.envelope import MalformedEvent, decode
from noetl_events.json_values import explain

if TYPE_CHECKING:
    from collections.abc import Callable

    from noetl_events.envelope import ExecutorEvent

MAX_EVENTS: Final = 256
_MAX_FAULTS: Final = 20


class _Batch(msgspec.Struct, frozen=True, kw_only=True):
    events: list[Raw]
    execution_id: Raw = Raw()
    worker_id: Raw = Raw()


_read_batch = msgspec.json.Decoder(_Batch).decode
_split = msgspec.json.Decoder(dict[str, Raw]).decode
_join = msgspec.json.Encoder().encode


def read_one(body: bytes, new_id: Callable[[], int]) -> ExecutorEvent:
    """
    Return the event in *body*, with an id.

    Raises:
        Refused: it holds none.

    """
    try:
        return _with_id(decode(body), new_id)
    except MalformedEvent as exc:
        raise malformed((_fault(exc, None),)) from None


def read_many(body: bytes, new_id: Callable[[], int]) -> list[ExecutorEvent]:
    """
    Return the events in *body*, each with an id; what one does not say itself, the batch says for it.

    Raises:
        Refused: one of them is none, or there are too many or none at all.

    """
    batch = _read(body)
    said = {"execution_id": batch.execution_id, "worker_id": batch.worker_id}
    defaults = {name: raw for name, raw in said.items() if bytes(raw) not in (b"", b"null")}
    events: list[ExecutorEvent] = []
    faults: list[Fault] = []
    for index, raw in enumerate(batch.events):
        try:
            events.append(_with_id(decode(_completed(raw, defaults)), new_id))
        except MalformedEvent as exc:
            faults.append(_fault(exc, index))
    if faults:
        raise malformed(tuple(faults))
    return events


def malformed(faults: tuple[Fault, ...]) -> Refused:
    """Return the refusal of events that no one will ever take."""
    return _refused(422, "malformed", faults)


def conflicting(faults: tuple[Fault, ...]) -> Refused:
    """Return the refusal of events whose keys are taken by different events; all others of the request are stored."""
    return _refused(409, "conflict", faults)


def _refused(status: int, code: str, faults: tuple[Fault, ...]) -> Refused:
    first = faults[0]
    place = "" if first.index is None else f"events[{first.index}]: "
    return Refused(status, code, f"{place}{first.reason}", errors=faults[:_MAX_FAULTS])


def _read(body: bytes) -> _Batch:
    try:
        batch = _read_batch(body)
    except (ValueError, RecursionError, OverflowError) as exc:
        field = "events" if isinstance(exc, msgspec.ValidationError) and "events" in str(exc) else "body"
        raise malformed((Fault(field=field, reason=f"{field}: {explain(exc)}"),)) from None
    if not batch.events:
        raise malformed((Fault(field="events", reason="events: none; send at least one"),))
    if len(batch.events) > MAX_EVENTS:
        raise Refused(413, "too_many", f"events: {len(batch.events)}; a batch may have {MAX_EVENTS}")
    return batch


def _completed(raw: Raw, defaults: dict[str, Raw]) -> bytes:
    try:
        said = _split(raw) if defaults else {}
    except (ValueError, RecursionError, OverflowError):
        # Whoever decodes it says better what is wrong.
        return bytes(raw)
    missing = {name: value for name, value in defaults.items() if name not in said}
    return _join({**said, **missing}) if missing else bytes(raw)


def _with_id(event: ExecutorEvent, new_id: Callable[[], int]) -> ExecutorEvent:
    return event if event.event_id is not None else structs.replace(event, event_id=new_id())


def _fault(exc: MalformedEvent, index: int | None) -> Fault:
    return Fault(index=index, field=str(exc).partition(":")[0], reason=str(exc))
