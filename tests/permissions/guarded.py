"""A server on which each role has exactly the permissions of `permissions`, and which logs every violation."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final, get_args

from consumers.permissions import Role, RoleContext, render_config, rights_of
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import DEAD_LETTERS, TRIALS
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.testing.nats_server import NatsServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from pathlib import Path

    from consumers.permissions import Permission, Rights

ROLES: Final[tuple[Role, ...]] = get_args(Role)
_DONE: Final = re.compile(r"cid:(\d+) .* <<- \[(PUB|HPUB|SUB) (\S+)")


class Guarded:
    """The server, and the permissions of its roles."""

    def __init__(self, server: NatsServer, work: RoleContext, folder: Path) -> None:
        self.folder = folder
        self.server = server
        self.work = work

    @asynccontextmanager
    async def connected(self, who: str) -> AsyncIterator[Connection]:
        """Connect as a role, or as the owner with all permissions."""
        prefix = "_INBOX" if who == "owner" else self.work.inbox_prefix
        options = ConnectOptions(
            servers=self.server.url, user=who, password="pw", inbox_prefix=prefix, connect_timeout=20.0
        )
        async with Connection(options) as connection:
            yield connection

    async def prepare(self) -> None:
        """Create the streams, as the owner."""
        async with self.connected("owner") as owner:
            for declared in (self.work.stream, DEAD_LETTERS, TRIALS):
                await ensure_stream(owner, declared)

    def restore(self, role: Role) -> None:
        """Write the printed permissions of *role*; a reload applies them."""
        (self.folder / f"{role}.conf").write_text(render_config(role, rights_of(role, self.work)))

    @property
    def violations(self) -> list[str]:
        """The lines of the server's log about denied requests."""
        return [line for line in self.server.log.splitlines() if "Violation" in line]

    async def unused(self, role: Role, connection: Connection) -> set[str]:
        """Return the reasons of the permissions of *role* that *connection* has not used."""
        client = await connection.client()
        await client.flush()
        cid = str(client.client_id)
        done = {(verb, subject) for who, verb, subject in _DONE.findall(self.server.log) if who == cid}
        published = {subject for verb, subject in done if verb != "SUB"}
        subscribed = {subject for verb, subject in done if verb == "SUB"}
        rights = rights_of(role, self.work)
        return _unused(rights.publish, published) | _unused(rights.subscribe, subscribed)


@contextmanager
def guarded(
    folder: Path, work: RoleContext, *, config: str = "", rights: dict[Role, Rights] | None = None
) -> Iterator[Guarded]:
    """Run a server with the four roles; *rights* replaces the permissions of a role."""
    users = ["{ user: owner, password: pw }"]
    includes = []
    folder.mkdir(exist_ok=True)
    for role in ROLES:
        (folder / f"{role}.conf").write_text(render_config(role, (rights or {}).get(role) or rights_of(role, work)))
        includes.append(f'include "{role}.conf"')
        users.append(f"{{ user: {role}, password: pw, permissions: $NOETL_{role.upper()} }}")
    accounts = f"accounts {{ NOETL {{ jetstream: enabled, users: [ {', '.join(users)} ] }} }}"
    with NatsServer(store_dir=folder, config="\n".join([*includes, accounts, "trace: true", config])) as server:
        yield Guarded(server, work, folder)


def _unused(rights: Iterable[Permission], done: set[str]) -> set[str]:
    by_reason: dict[str, bool] = {}
    for right in rights:
        used = any(_is_in(subject, right.subject) for subject in done)
        by_reason[right.why] = by_reason.get(right.why, False) or used
    return {why for why, used in by_reason.items() if not used}


def _is_in(subject: str, pattern: str) -> bool:
    expression = re.escape(pattern).replace(r"\*", "[^.]+")
    return bool(re.fullmatch(expression.removesuffix(">") + (".+" if expression.endswith(">") else ""), subject))
