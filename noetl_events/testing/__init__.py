"""Tools for tests of sinks and of their users: the contract, faults, events, and real servers."""

from typing import TYPE_CHECKING, Any

from noetl_events.testing.events import events, eventually, json_values, make_event, make_events
from noetl_events.testing.faulty import FaultySink

if TYPE_CHECKING:
    from noetl_events.testing.contract import SinkContract

__all__ = ["FaultySink", "SinkContract", "events", "eventually", "json_values", "make_event", "make_events"]


def __getattr__(name: str) -> Any:
    # The contract is imported lazily, because only it needs pytest, and the demo uses this package without pytest.
    if name == "SinkContract":
        from noetl_events.testing.contract import SinkContract  # noqa: PLC0415  (see above)

        return SinkContract
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
