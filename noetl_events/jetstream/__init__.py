"""The border to NATS: the only package that imports nats."""
