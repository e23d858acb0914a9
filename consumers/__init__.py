"""The server processes, their command line, and the destinations with dependencies."""
