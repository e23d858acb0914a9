"""The projector: pulls a stream, writes each batch into a destination, acknowledges it."""
