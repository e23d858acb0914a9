"""How a connection to NATS is made: servers, transports, credentials."""
