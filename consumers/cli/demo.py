"""The command `noetl-events demo`."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

from cyclopts import Parameter, validators
from msgspec import structs

from consumers.cli.options import AsJson
from consumers.cli.output import print_result
from consumers.verification.readback import read_back


async def demo(
    *,
    events: Annotated[int, Parameter(validator=validators.Number(gte=1), help="Number of events to emit.")] = 20_000,
    rate: Annotated[
        float,
        Parameter(validator=validators.Number(gte=0), help="Events per second; 0 for no limit."),
    ] = 4_000,
    to: Annotated[str | None, Parameter(help="URL of the destination; a temporary SQLite file by default.")] = None,
    postgres: Annotated[bool, Parameter(help="Start an embedded Postgres as the destination.", negative=())] = False,
    json: AsJson = False,
) -> int:
    """
    Demonstrate the whole path on temporary servers: workers emit, JetStream stores, a projector writes rows.

    Every event is checked at the destination.  Exit code 1 if an event is missing or duplicated.

    Example: `noetl-events demo --events 100000 --postgres`
    """
    from consumers.demo.run import Demo, DemoFailed, live_view

    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="noetl-events-")))
        destination = await _destination(stack, folder, to, postgres=postgres)
        show = stack.enter_context(live_view(events))
        try:
            summary = await Demo(folder=folder, to=destination, events=events, rate=rate, show=show).run()
        except DemoFailed as exc:
            print(f"noetl-events: {exc}", file=sys.stderr)
            return 1
    print_result(structs.asdict(summary), as_json=json, title="Every event checked at its destination")
    if summary.lost or summary.duplicates:
        print("noetl-events: the destination does not hold every event exactly once", file=sys.stderr)
        return 1
    return 0


async def _destination(stack: ExitStack, folder: Path, to: str | None, *, postgres: bool) -> str:
    if to and postgres:
        raise ValueError("--to, --postgres: give one of them; --postgres starts a destination of its own")
    if to:
        # Fails early for a destination that could not be checked at the end.
        await read_back(to).aclose()
    if not postgres:
        return to or f"sqlite:///{folder / 'events.db'}"
    from consumers.sinks.postgres import create_schema
    from noetl_events.testing.postgres_server import PostgresServer

    server = stack.enter_context(PostgresServer(data_dir=folder / "postgres"))
    await create_schema(server.url)
    return server.url
