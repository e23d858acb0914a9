"""The interface to NATS: the only package that imports nats."""
