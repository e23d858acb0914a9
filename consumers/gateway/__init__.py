"""The gateway: receives events over HTTP, and serves them as a live stream."""
