"""The sinks that a worker pod can emit to, one file each."""
