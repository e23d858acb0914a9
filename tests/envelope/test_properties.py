"""Properties of the envelope for all events and all bytes."""

from __future__ import annotations

import json
import re
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetl_events import ExecutorEvent, MalformedEvent, decode, encode
from noetl_events.testing import events
from tests.envelope.bodies import value

# This is the form that chrono's serde reads: a date, T, a time of 0 to 9 fraction digits, Z.
_CHRONO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z")


class TestProperties:
    """The properties for all events and for all bytes."""

    @given(events())
    def test_what_is_written_is_read(self, event: ExecutorEvent) -> None:
        """Reading a written event returns the event, and writing that returns the same bytes."""
        written = encode(event)
        read = decode(written)

        assert encode(read) == written
        assert value(read.context) == event.context
        assert (None if read.meta is None else value(read.meta)) == event.meta
        for field in ("execution_id", "event_type", "step", "status", "created_at", "event_id", "worker_id"):
            assert getattr(event, field) == getattr(read, field)

    @given(events())
    def test_what_is_written_serde_reads(self, event: ExecutorEvent) -> None:
        """Fields are in the crate's order, none null except the context, integers in 64 bits, chrono times, no NaN."""
        pairs = json.loads(encode(event), object_pairs_hook=list, parse_constant=pytest.fail)
        order = [field for field in msgspec.structs.fields(ExecutorEvent) if field.name in dict(pairs)]

        assert [field.name for field in order] == [name for name, _ in pairs]
        assert all(content is not None for name, content in pairs if name != "context")
        assert _CHRONO.fullmatch(dict(pairs)["created_at"])

    @given(st.binary() | st.text().map(str.encode))
    def test_any_bytes_are_an_event_or_malformed(self, data: bytes) -> None:
        """No input raises an exception other than MalformedEvent."""
        with suppress(MalformedEvent):
            decode(data)

    @given(st.data())
    def test_any_damage_is_an_event_or_malformed(self, data: st.DataObject) -> None:
        """A body with some bytes overwritten is read or refused, and an event that was read can be written."""
        body = bytearray(encode(data.draw(events())))
        for _ in range(data.draw(st.integers(1, 4))):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        try:
            event = decode(bytes(body))
        except MalformedEvent:
            return

        assert encode(decode(encode(event))) == encode(event)
