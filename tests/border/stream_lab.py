"""Streams with configurations edited by hand while events are published to them and projected."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Self

import structlog

from noetl_events.jetstream.api import server_version
from noetl_events.jetstream.declarations import DEAD_LETTERS
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.stream_config import stream_config
from noetl_events.jetstream.streams import examine_stream
from noetl_events.sink import EventsRejected, SinkUnavailable
from noetl_events.sinks.memory import MemorySink
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import make_event
from tests.border.edits import FEEDER, Edit, of_stream, stream_edits
from tests.border.lab import Case, Lab, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, MutableMapping, Sequence

    from noetl_events.envelope import ExecutorEvent
    from noetl_events.jetstream.declarations import StreamDeclaration

PATIENCE: Final = 180.0
TIMEOUT: Final = 1.5
"""The timeout of a publisher in seconds; for longer retries the test emits the same events again."""

# These fields have to change with another one; so many combinations are tried.
MOST_BESIDE: Final = 3
MOST_TRIED: Final = 16
_case: ContextVar[str] = ContextVar("case", default="")


class Away(MemorySink):
    """A sink that stores events, and can be made unavailable."""

    is_away = False

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Store *events*."""
        if self.is_away:
            raise SinkUnavailable("away")
        await super().emit_batch(events)


class StreamCase(Case):
    """A stream, its publisher, its projector, and the acknowledged events."""

    def __init__(self, lab: Lab, stream: StreamDeclaration, letters: StreamDeclaration | None = None) -> None:
        super().__init__(lab, stream)
        self.dead_letters = letters or DEAD_LETTERS
        self.edited = letters or stream
        """The edited stream: the dead-letter stream, if one is given."""

        self.sink: Away = Away()
        self.acknowledged: set[int] = set()
        self.refusal = ""
        """The reason why the publisher could not store the last events."""

        self._publisher = NatsSink(
            lab.connection, subject=f"{stream.name}.{{event_type}}", timeout=TIMEOUT, stream=stream.name
        )
        _case.set(stream.name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._publisher.aclose()

    async def emit(self, edit: Edit, events: int = 6) -> None:
        """Emit *count* more events, most in one batch; retry until stored, or refused because of the *edit*."""
        numbers = [next(self._ids) for _ in range(events)]
        for batch in (numbers[:-2], numbers[-2:-1], numbers[-1:]):
            await self._emit(edit, batch)

    async def _emit(self, edit: Edit, batch: Sequence[int]) -> None:
        made = [make_event(number, event_type="ab"[number % 2]) for number in batch]
        end = asyncio.get_running_loop().time() + PATIENCE
        while True:
            try:
                await self._publisher.emit_batch(made)
            except SinkUnavailable as exc:
                self.refusal = str(exc)
            except EventsRejected as exc:
                self.refusal = " ".join(exc.reasons.values())
                self.acknowledged.update(number for place, number in enumerate(batch) if place not in exc.reasons)
            else:
                self.refusal = ""
                self.acknowledged.update(batch)
                return
            if names(await self.examined(), edit):
                return
            assert asyncio.get_running_loop().time() < end, f"{edit.name}: not stored: {self.refusal}"
            await asyncio.sleep(0.1)

    @property
    def is_stored(self) -> bool:
        """True if every acknowledged event is stored."""
        return self.acknowledged <= self.stored

    @property
    def stored(self) -> set[int | None]:
        """The ids of the stored events."""
        return {event.event_id for event in self.sink.events}

    async def publish_malformed(self) -> None:
        """Store a message that is no event, which becomes a dead letter."""
        client = await self.lab.connection.client()
        await client.request(f"{self.stream.name}.a", b"{", timeout=PATIENCE)

    async def examined(self) -> str:
        """Return the findings of `doctor` and `stream ensure`."""
        try:
            return "; ".join(map(str, await examine_stream(self.lab.connection, self.edited)))
        except NatsUnavailable as exc:
            return str(exc)

    async def looked(self) -> None:
        """Wait until the projector has checked its stream again, or has ended."""
        looks = self._looks
        await until(lambda: self._looks > looks + 1 or self._is_refused or self.error is not None, PATIENCE)

    @property
    def _looks(self) -> int:
        return self._service.stream_monitor._checks if self._service else 0

    @property
    def _is_refused(self) -> bool:
        # A check that finds a stream which must not be read is not counted, so waiting for more would never end.
        found = self._service.stream_monitor._review._found if self._service else {}
        return any(deviation.weight == "refused" for deviation in found.get(self.stream.name, ()))


class Quiet:
    """A context that asserts a limit on requests, publishes and log lines."""

    MOST: Final = {"requests": 40.0, "publishes": 40.0, "lines": 8.0}
    """The time base: a second."""

    ONCE: Final = {"requests": 60, "publishes": 60, "lines": 12}

    def __init__(self, case: Case, lines: Counter[str]) -> None:
        self._case = case
        self._lines = lines
        self._began = 0.0
        self._before: dict[str, int] = {}

    def __enter__(self) -> None:
        self._began, self._before = asyncio.get_running_loop().time(), self._counts()

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        seconds = asyncio.get_running_loop().time() - self._began
        for what, now in self._counts().items():
            made = now - self._before[what]
            assert failed or made <= self.MOST[what] * seconds + self.ONCE[what], f"{made} {what} in {seconds:.1f} s"

    def _counts(self) -> dict[str, int]:
        name = self._case.stream.name
        counts = self._case.lab.requests
        return {"requests": counts[name], "publishes": counts[f"{name}."], "lines": self._lines[name]}


@contextmanager
def counted_lines() -> Iterator[Counter[str]]:
    """Count the log lines of each case, and those that name a field of its stream; write none."""
    lines: Counter[str] = Counter()

    def count(_logger: object, _method: str, event: MutableMapping[str, Any]) -> Any:
        lines[_case.get()] += 1
        if event["event"] in {"stream.differs", "stream.unsafe"}:
            lines[f"{event['stream']}: {event['field']}: {event['value']}"] += 1
        raise structlog.DropEvent

    # Loggers that exist already keep this very list.
    processors = structlog.get_config()["processors"]
    before = processors.copy()
    processors[:] = [count]
    try:
        yield lines
    finally:
        processors[:] = before


class StreamLab(Lab):
    """The streams of one server, and their edits."""

    async def count_all(self) -> None:
        """Count the requests about each stream and the publishes to it from now on."""

        async def note(message: Any) -> None:
            tokens = message.subject.split(".")
            if tokens[0] == "$JS":
                self.requests.update({token for token in tokens if token.startswith("border_")})
            else:
                self.requests[f"{tokens[0]}."] += 1

        client = await self.connection.client()
        for subject in (self.connection.api(">"), "*.a", "*.b"):
            await client.subscribe(subject, cb=note)
        await client.flush()
        await self._make(FEEDER, {"name": FEEDER, "subjects": [FEEDER], "storage": "memory"})

    async def original_of(self, stream: StreamDeclaration) -> dict[str, Any]:
        """Return the declared configuration."""
        return stream_config(stream, await server_version(self.connection))

    async def config_of(self, name: str) -> dict[str, Any]:
        """Return the configuration of a stream as the server shows it."""
        config: dict[str, Any] = (await self.api(f"STREAM.INFO.{name}")).get("config", {})
        own = {name: text for name, text in config.pop("metadata", {}).items() if not name.startswith("_nats.")}
        return config | ({"metadata": own} if own else {})

    async def remake(self, stream: StreamDeclaration, edit: Edit) -> str:
        """Create *stream* again with the edit; return the server's refusal."""
        name, original = stream.name, await self.original_of(stream)
        await self.api(f"STREAM.DELETE.{name}")
        refused = await self._make(name, original | of_stream(edit.changes, name))
        if not refused or edit.changes.keys() != {edit.field.partition(".")[0]}:
            return refused
        # A stream gets some values only after its creation.
        await self._make(name, original)
        is_refused = await self._make(name, await self.config_of(name) | of_stream(edit.changes, name), verb="UPDATE")
        return refused if is_refused else ""

    async def edit(self, stream: StreamDeclaration, edit: Edit) -> bool:
        """Edit *stream*, or create it again where it cannot be edited; return true if the server accepted."""
        name = stream.name
        config = await self.config_of(name) | of_stream(edit.changes, name)
        if not await self._make(name, config, verb="UPDATE"):
            return True
        refused = await self.remake(stream, edit)
        assert not refused, f"{edit.name}: {refused}"
        return False

    async def put_back(self, stream: StreamDeclaration, config: dict[str, Any]) -> None:
        """Edit *stream* back to its *config*, or create it again where it cannot be edited."""
        if await self._make(stream.name, config, verb="UPDATE"):
            await self.api(f"STREAM.DELETE.{stream.name}")
            await self._make(stream.name, config)

    async def _make(self, name: str, config: dict[str, Any], *, verb: str = "CREATE") -> str:
        body = {field: value for field, value in config.items() if value is not None}
        answer = await self.api(f"STREAM.{verb}.{name}", body)
        return str(answer.get("error", {}).get("description", ""))

    async def possible_edits(self) -> tuple[list[Edit], int]:
        """Return the edits that the server accepts, alone or with others, and the number of attempts."""
        shown = await self.config_of((await self.stream()).name)
        candidates = stream_edits(shown, "{stream}")
        fields = list(dict.fromkeys(edit.field for edit in candidates))
        room = asyncio.Semaphore(16)

        async def probe(field: str) -> list[Edit]:
            async with room:
                stream = await self.stream()
                found = await self._taken(stream, [each for each in candidates if each.field == field], candidates)
                await self.api(f"STREAM.DELETE.{stream.name}")
                return found

        found = [edit for edits in await asyncio.gather(*map(probe, fields)) for edit in edits]
        return found, len(candidates)

    async def _taken(self, stream: StreamDeclaration, edits: Sequence[Edit], others: Sequence[Edit]) -> list[Edit]:
        """Return the edits of one field in *edits* that the server accepts; of several texts the first one."""
        original = await self.config_of(stream.name)
        found: list[Edit] = []
        for edit in edits:
            if edit.is_text and found:
                break
            changes = await self._completed(stream, edit, others)
            if changes is not None and await self.config_of(stream.name) != original:
                found.append(Edit(edit.field, changes))
        return found

    async def _completed(self, stream: StreamDeclaration, edit: Edit, others: Sequence[Edit]) -> dict[str, Any] | None:
        """Return the changes of *edit* with the fewest further ones the server requires; None if it accepts none."""
        tried = [edit]
        for _ in range(MOST_BESIDE + 1):
            following: list[Edit] = []
            for each in tried:
                refused = await self.remake(stream, each)
                if not refused:
                    return each.changes
                meant = [other.changes for other in others if words_of(other.field) <= words_of(refused)]
                following += [
                    Edit(edit.field, each.changes | changes)
                    for changes in meant
                    if not changes.keys() & each.changes.keys()
                ]
            tried = following[:MOST_TRIED]
        return None


def words_of(text: str) -> set[str]:
    """Return the words of *text* that identify an option in the texts of the server."""
    # The first letters must suffice: the server writes "batch" for "batched", and "duplicates" for "duplicate".
    return {word[:5] for word in re.split(r"[\W_]+", text.lower())} - {"", "allow", "max"}


def names(words: str, edit: Edit) -> bool:
    """Return true if *words* name the edited field."""
    return any(field in words for field in edit.changes)


@asynccontextmanager
async def running(case: StreamCase) -> AsyncIterator[None]:
    """Run publisher and projector of *case*, and stop both in the end."""
    async with case, case.running():
        yield
