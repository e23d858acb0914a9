"""A sink that keeps events on disk until the next sink has stored them."""

from __future__ import annotations

from noetl_events.sinks.spool.sink import SpoolSink

__all__ = ["SpoolSink"]
