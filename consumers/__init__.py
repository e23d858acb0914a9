"""The daemons, their command line, and the heavier destinations."""
