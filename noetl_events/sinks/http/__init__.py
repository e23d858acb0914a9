"""A sink that posts events over HTTP."""

from noetl_events.sinks.http.sink import HttpSink

__all__ = ["HttpSink"]
