"""The doctor's findings about Postgres: each is provoked, and gone after its remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from consumers.doctor.postgres import check_postgres
from consumers.permissions import grants_of
from consumers.sinks.postgres import create_schema
from tests.sinks.postgres_database import execute

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from consumers.doctor.check import CheckContext, Finding

NOETL = (Path(__file__).parents[1] / "sinks" / "noetl_event.sql").read_text()


async def found(context: CheckContext, url: str) -> list[Finding]:
    """Return the findings that are not ok."""
    return [one for one in await check_postgres(replace(context, to=(url,))) if one.severity != "ok"]


async def test_unreachable(well: CheckContext, plain_url: str) -> None:
    """An unreachable database is a fault."""
    [finding] = await found(well, f"{plain_url}_gone")

    assert (finding.severity, "correct the URL" in finding.remedy) == ("fault", True), finding
    assert await found(well, plain_url) == []


async def test_schema(well: CheckContext, database_url: str) -> None:
    """A missing table is a fault, and so is a missing column."""
    [missing] = await found(well, database_url)
    await create_schema(database_url)
    mended = await found(well, database_url)
    await execute(database_url, "ALTER TABLE noetl.event DROP COLUMN meta")
    [differs] = await found(well, database_url)

    assert (missing.severity, missing.remedy, mended) == ("fault", "noetl-events schema URL", [])
    assert (differs.severity, "meta jsonb is missing" in differs.found) == ("fault", True)


@pytest.fixture
async def bare_url(plain_url: str) -> AsyncIterator[str]:
    """Return the URL of the database for a role without permissions."""
    parts = urlsplit(plain_url)
    name = f"bare_{parts.path[1:]}"
    await execute(
        plain_url,
        f"REVOKE ALL ON DATABASE {parts.path[1:]} FROM PUBLIC; CREATE ROLE {name} LOGIN PASSWORD 'pw'; "
        f"GRANT CONNECT ON DATABASE {parts.path[1:]} TO {name}",
    )
    yield parts._replace(netloc=f"{name}:pw@{parts.hostname}:{parts.port}").geturl()
    await execute(plain_url, f"DROP OWNED BY {name}; DROP ROLE {name}")


async def test_rights(well: CheckContext, plain_url: str, bare_url: str) -> None:
    """All missing permissions of a role are named; the grants that `permissions` prints are sufficient."""
    [finding] = await found(well, bare_url)
    await execute(plain_url, grants_of("projector", bare_url))
    mended = await found(well, bare_url)
    name = urlsplit(bare_url).username
    await execute(
        plain_url,
        f"REVOKE SELECT ON noetl.event FROM {name}; GRANT SELECT (execution_id, event_id) ON noetl.event TO {name}",
    )
    [less] = await found(well, bare_url)

    assert finding.severity == "fault"
    assert [word for word in ("USAGE", "TEMPORARY", "INSERT", "SELECT") if word not in finding.found] == []
    assert mended == []
    assert less.found.endswith("lacks SELECT on event_type, step, status, created_at, context, worker_id, meta, digest")


async def test_rights_on_a_table_of_noetl(well: CheckContext, database_url: str) -> None:
    """On NoETL's own table the grants cover only the compared columns, and are sufficient."""
    await execute(database_url, NOETL)
    name = f"bare_{urlsplit(database_url).path[1:]}"
    await execute(database_url, f"CREATE ROLE {name} LOGIN PASSWORD 'pw'")
    parts = urlsplit(database_url)
    url = f"{parts._replace(netloc=f'{name}:pw@{parts.hostname}:{parts.port}').geturl()}?mapping=noetl"
    await execute(database_url, grants_of("projector", url))
    findings = await check_postgres(replace(well, to=(url,)))
    await execute(database_url, f"DROP OWNED BY {name}; DROP ROLE {name}")

    assert (findings[0].severity, "accepts the sink's rows" in findings[0].found) == ("ok", True), findings
    assert "stack_trace" not in grants_of("projector", url)


async def test_table_of_the_first_version(well: CheckContext, plain_url: str) -> None:
    """A table without the digest is a warning, with the command that adds the column."""
    await execute(plain_url, "ALTER TABLE noetl.event DROP COLUMN digest")
    [finding] = await found(well, plain_url)
    await create_schema(plain_url, upgrade=True)

    assert (finding.severity, finding.remedy) == ("warning", "noetl-events schema URL --upgrade")
    assert await found(well, plain_url) == []


async def test_partitions(well: CheckContext, database_url: str) -> None:
    """NoETL's table without a present partition is a fault, with the default one a warning, with its own one ok."""
    url = f"{database_url}?mapping=noetl"
    await execute(database_url, NOETL)
    await execute(database_url, "DROP TABLE noetl.event_default, noetl.event_p2, noetl.event_p3, noetl.event_p1")
    [none] = await found(well, url)
    await execute(database_url, "CREATE TABLE noetl.event_default PARTITION OF noetl.event DEFAULT")
    [default] = await found(well, url)
    now = none.remedy.split("execution_id ")[1].split()[0]
    partition = "CREATE TABLE noetl.event_now PARTITION OF noetl.event FOR VALUES FROM"
    await execute(database_url, f"{partition} ({now}) TO ({int(now) + 10**12})")
    [ends] = await found(well, url)
    await execute(
        database_url,
        f"CREATE TABLE noetl.event_next PARTITION OF noetl.event FOR VALUES FROM ({int(now) + 10**12}) TO (MAXVALUE)",
    )

    assert [none.severity, default.severity, ends.severity] == ["fault", "warning", "warning"]
    assert await found(well, url) == []
