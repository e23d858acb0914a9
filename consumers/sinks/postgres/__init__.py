"""The Postgres sink: events as rows of a table."""

from consumers.sinks.postgres.sink import PostgresSink, create_schema
from consumers.sinks.postgres.table import TableMismatch

__all__ = ["PostgresSink", "TableMismatch", "create_schema"]
