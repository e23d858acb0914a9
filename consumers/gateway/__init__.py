"""The gateway: events in over HTTP, and out as a live stream."""
