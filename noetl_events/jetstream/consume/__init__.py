"""Read a stream: through a durable pull consumer, or without one."""
