"""Verification: the comparison of a stream with a destination, event by event."""
