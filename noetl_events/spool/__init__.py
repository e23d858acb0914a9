"""What `SpoolSink` keeps on disk: a journal of events, and how far it was handed over."""
