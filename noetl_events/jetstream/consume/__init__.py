"""Reading a stream: the durable pull consumer, and readers without one."""
