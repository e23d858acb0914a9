"""The whole path on servers of its own: what `noetl-events demo` runs."""
