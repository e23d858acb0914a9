"""Whether a projector is well, for people, orchestrators and Prometheus."""
