"""A Postgres for the session."""

from tests.sinks.conftest import database_url, postgres_url

__all__ = ["database_url", "postgres_url"]
