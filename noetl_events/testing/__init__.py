"""For the tests of whoever writes a sink or runs one: the contract, faults, events, and real servers."""

from noetl_events.testing.contract import SinkContract
from noetl_events.testing.events import events, json_values, make_event, make_events
from noetl_events.testing.faulty import FaultySink
from noetl_events.testing.waiting import eventually

__all__ = ["FaultySink", "SinkContract", "events", "eventually", "json_values", "make_event", "make_events"]
