"""Spans of the daemons, and where they are exported to."""
