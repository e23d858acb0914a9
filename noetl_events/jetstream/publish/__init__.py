"""Publishing into a stream: the queue, the batches, and what their answers mean."""
