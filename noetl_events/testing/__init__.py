"""For the tests of whoever writes a sink or runs one: the contract, faults, events, and real servers."""

from typing import TYPE_CHECKING, Any

from noetl_events.testing.events import events, eventually, json_values, make_event, make_events
from noetl_events.testing.faulty import FaultySink

if TYPE_CHECKING:
    from noetl_events.testing.contract import SinkContract

__all__ = ["FaultySink", "SinkContract", "events", "eventually", "json_values", "make_event", "make_events"]


def __getattr__(name: str) -> Any:
    # The contract is the only one that needs pytest; the demo starts its servers from here, and has none.
    if name == "SinkContract":
        from noetl_events.testing.contract import SinkContract  # noqa: PLC0415  (see above)

        return SinkContract
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
