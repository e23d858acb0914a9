"""A stream and a destination compared, event by event."""
