"""Connections to NATS servers: URLs, the order of attempts, and transports."""
