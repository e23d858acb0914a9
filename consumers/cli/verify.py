"""The command `noetl-events verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from consumers.cli.options import AsJson, FromSequence, FromTime, Nats, read_settings, read_start
from consumers.cli.output import print_result, progress
from consumers.verification.verify import Verification
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.consume.history import Span

if TYPE_CHECKING:
    from consumers.verification.verify import Example


async def verify(
    *,
    to: Annotated[str, Parameter(help="URL of the destination: `postgresql:`, `sqlite:` or `jsonl:`.")],
    from_sequence: FromSequence = None,
    from_time: FromTime = None,
    wait: Annotated[float, Parameter(help="Seconds to retry while NATS is unavailable.")] = 60.0,
    nats: Nats = None,
    json: AsJson = False,
) -> int:
    """
    Compare the stream with a destination, event by event; exit code 1 if an event is missing, lost or different.

    `conflicts` counts later events with the key of a different event: each belongs in the dead letters, and one that is
    neither a row nor a letter is `lost`.  `variants` differ in their payload only.

    JSON is compared by value.  Events that the projector has not copied yet count as missing, so let it catch up first.
    `noetl-events rebuild` restores missing events; a row that differs has to be deleted before that.

    Example: `noetl-events verify --to postgresql://localhost/noetl --from-time 1h`
    """
    settings = read_settings(nats)
    span = Span(stream=settings.stream.name, start=read_start(from_sequence, from_time))
    async with Connection(settings.connect) as connection:
        dead_letters = settings.dead_letters.name
        found = await Verification(connection, span, to, dead_letters=dead_letters, patience=wait, show=progress).run()
    result = msgspec.to_builtins(found)
    if not json:
        del result["examples"]
    print_result(result, as_json=json)
    if not json:
        _print_examples(found.examples)
    return 0 if found.is_complete else 1


def _print_examples(examples: dict[str, list[Example]]) -> None:
    table = Table("kind", "sequence", "execution id", "event id", "reason", box=None, pad_edge=False)
    for kind, some in examples.items():
        for one in some:
            fields = (one.sequence, one.execution_id, one.event_id, one.reason)
            table.add_row(kind, *("" if field is None else str(field) for field in fields))
    if table.row_count:
        Console().print("\nThe first of each kind:", table, sep="\n", markup=False)
