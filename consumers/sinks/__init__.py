"""The sinks that a projector can write to, one file each."""
