"""Publish into a stream: the queue, the batches, and the meaning of answers."""
