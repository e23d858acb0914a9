"""`noetl-events dead list`, `show`, `retry`, `edit` and `purge`."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter, validators
from msgspec.structs import replace

from consumers.cli.dead_output import edit_in_file, print_letter, print_letters, print_outcomes, readable
from consumers.cli.options import AsJson, Nats, read_moment, read_settings
from consumers.cli.output import print_result, progress
from consumers.dead_letters.letter import Letter
from consumers.dead_letters.resend import Outcome, Resending
from consumers.dead_letters.store import Graveyard, Wanted
from consumers.logs import escaped
from noetl_events.envelope import MalformedEvent, decode
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.errors import StreamMissing

dead = App(name="dead", help="Dead letters: look at them, send them back, mend them, remove them.")

_LISTED = 100

Positive = validators.Number(gte=1)
Number = Annotated[int, Parameter(validator=Positive, help="Number of the letter, as `dead list` shows it.")]
Numbers = Annotated[int, Parameter(validator=Positive, help="Numbers of letters, as `dead list` shows them.")]
All = Annotated[bool, Parameter(name="--all", help="Every letter that the filters let through.", negative=())]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which letters."""

    kind: Annotated[
        tuple[str, ...],
        Parameter(help="Only these kinds: malformed, rejected, conflict, fatal, exhausted.", negative=()),
    ] = ()
    reason: Annotated[str, Parameter(help="Only with this text in the reason.")] = ""
    since: Annotated[
        str, Parameter(help="Buried then or later: `2026-05-31T03:14:15Z`, or `2h` for two hours ago.")
    ] = ""
    until: Annotated[str, Parameter(help="Buried before: likewise.")] = ""
    execution: Annotated[int | None, Parameter(help="Only of this execution.")] = None
    limit: Annotated[int | None, Parameter(validator=Positive, help="The first so many.")] = None

    def wanted(self) -> Wanted:
        """Return them as the graveyard takes them."""
        return Wanted(
            kinds=self.kind,
            reason=self.reason,
            since=read_moment("--since", self.since) if self.since else None,
            until=read_moment("--until", self.until) if self.until else None,
            execution=self.execution,
            limit=self.limit,
        )

    @property
    def any_given(self) -> bool:
        """Whether they leave anything out, the limit aside."""
        return bool(self.kind or self.reason or self.since or self.until or self.execution is not None)


_ANY = Filters()


@dead.command(name="list")
async def list_(*, filters: Filters = _ANY, nats: Nats = None, json: AsJson = False) -> int:
    """
    List the dead letters, the oldest first, 100 unless `--limit` says otherwise; a message buried twice is shown once.

    Example: `noetl-events dead list --kind rejected --since 2h`
    """
    wanted = filters.wanted()
    limit = wanted.limit or _LISTED
    settings = read_settings(nats)
    async with Connection(settings.connect) as connection:
        try:
            letters = await _letters(
                Graveyard(connection, stream=settings.dead_letters.name),
                replace(wanted, limit=limit + 1),
                distinct=True,
            )
        except StreamMissing as exc:
            _say(f"no dead letters: {exc}")
            return 0
    if letters:
        print_letters(letters[:limit], as_json=json)
    else:
        _say("no dead letters")
    if len(letters) > limit:
        _say(f"there are more than these {limit}; filter, or raise --limit")
    return 0


@dead.command
async def show(
    sequence: Number,
    *,
    raw: Annotated[bool, Parameter(help="Write the payload to standard output, byte for byte.", negative=())] = False,
    nats: Nats = None,
    json: AsJson = False,
) -> int:
    """
    Show one dead letter: where it came from, why it is here, its headers and its payload.

    Example: `noetl-events dead show 7` or `noetl-events dead show 7 --raw > payload.json`
    """
    settings = read_settings(nats)
    async with Connection(settings.connect) as connection:
        letter = await Graveyard(connection, stream=settings.dead_letters.name).find(sequence)
    if letter is None:
        return _gone(sequence)
    if raw:
        sys.stdout.buffer.write(letter.body)
    else:
        print_letter(letter, as_json=json)
    return 0


@dead.command
async def retry(
    *sequences: Numbers,
    all_: All = False,
    filters: Filters = _ANY,
    new_id: Annotated[bool, Parameter(help="Give each event another id, as a conflict needs it.", negative=())] = False,
    recipient: Annotated[
        str, Parameter(name="--for", help="The consumer they are for, not the one that buried them; `*` for all.")
    ] = "",
    dry_run: Annotated[bool, Parameter(help="Only say what would be sent.", negative=())] = False,
    nats: Nats = None,
    json: AsJson = False,
) -> int:
    """
    Send dead letters back to the subject they came from, and remove them once the stream has them again.

    Each goes to the consumer that buried it; the projectors of others skip it.  Exit code 1 if one could not be sent:
    it stays, and trying again stores nothing twice.

    A conflict has the id of another event, and needs `--new-id`: all letters about one message get the same new id.

    Example: `noetl-events dead retry 7 8` or `noetl-events dead retry --all --kind rejected --since 2h`
    """
    if bool(sequences) == all_:
        raise ValueError("sequences: name letters by their numbers, or give --all, with or without filters")
    if sequences and filters != _ANY:
        raise ValueError("sequences: filters go with --all, not with numbers")
    settings = read_settings(nats)
    async with Connection(settings.connect) as connection:
        graveyard = Graveyard(connection, stream=settings.dead_letters.name)
        chosen = sequences or await _numbers(graveyard, filters.wanted())
        resending = Resending(connection, graveyard, new_id=new_id, recipient=recipient)
        outcomes = await _retried(resending, chosen, dry_run=dry_run, as_json=json)
    if not chosen:
        _say("no dead letter matches")
    return int(any(each.outcome == "failed" for each in outcomes))


@dead.command
async def edit(
    sequence: Number,
    *,
    file: Annotated[Path | None, Parameter(help="The new payload; without it `$EDITOR` opens the old one.")] = None,
    recipient: Annotated[
        str, Parameter(name="--for", help="The consumer it is for, not the one that buried it; `*` for all.")
    ] = "",
    nats: Nats = None,
    json: AsJson = False,
) -> int:
    """
    Correct the payload of a dead letter, and send it back as `retry` does; what is still no event is refused.

    Example: `noetl-events dead edit 7` or `noetl-events dead edit 7 --file corrected.json`
    """
    settings = read_settings(nats)
    async with Connection(settings.connect) as connection:
        graveyard = Graveyard(connection, stream=settings.dead_letters.name)
        letter = await graveyard.find(sequence)
        if letter is None:
            return _gone(sequence)
        edited = file or await _in_editor(letter)
        body = _sound_body(letter, edited, from_editor=file is None)
        outcome = await Resending(connection, graveyard, recipient=recipient).send(letter, body)
    print_outcomes([outcome], as_json=json)
    return _finish_edit(letter, edited, outcome, from_editor=file is None)


@dead.command
async def purge(
    *,
    all_: All = False,
    filters: Filters = _ANY,
    yes: Annotated[bool, Parameter(help="Do not ask.", negative=())] = False,
    nats: Nats = None,
    json: AsJson = False,
) -> int:
    """
    Remove dead letters for ever, without sending them anywhere; say which with filters, or `--all`.

    Example: `noetl-events dead purge --kind malformed --until 7d --yes`
    """
    if not all_ and not filters.any_given:
        raise ValueError("--all: give it to remove every dead letter, or say which with --kind, --reason, --until, ...")
    settings = read_settings(nats)
    async with Connection(settings.connect) as connection:
        graveyard = Graveyard(connection, stream=settings.dead_letters.name)
        chosen = await _numbers(graveyard, filters.wanted())
        if chosen and not yes and not await asyncio.to_thread(_agrees, len(chosen)):
            _say("nothing removed")
            return 1
        await _remove(graveyard, chosen, as_json=json)
    return 0


async def _letters(graveyard: Graveyard, wanted: Wanted, *, distinct: bool = False) -> list[Letter]:
    found = []
    with progress("reading") as advance:
        async with aclosing(graveyard.letters(wanted, distinct=distinct)) as letters:
            async for letter in letters:
                found.append(letter)
                advance(1)
    return found


async def _numbers(graveyard: Graveyard, wanted: Wanted) -> tuple[int, ...]:
    return tuple(letter.sequence for letter in await _letters(graveyard, wanted))


async def _in_editor(letter: Letter) -> Path:
    return await asyncio.to_thread(edit_in_file, readable(letter.body))


def _sound_body(letter: Letter, edited: Path, *, from_editor: bool) -> bytes:
    body = edited.read_bytes()
    if from_editor and body == readable(letter.body).encode():
        edited.unlink()
        raise ValueError("the payload is as it was; nothing was sent; `noetl-events dead retry` sends it unchanged")
    try:
        decode(body)
    except MalformedEvent as exc:
        # The text stays where it is: somebody took pains over it.
        raise ValueError(f"{edited}: {escaped(str(exc))}; nothing was sent; {_again(letter, edited)}") from None
    return body


def _finish_edit(letter: Letter, edited: Path, outcome: Outcome, *, from_editor: bool) -> int:
    if outcome.outcome == "failed":
        _say(f"nothing is lost: the new payload is in {edited}; {_again(letter, edited)}")
        return 1
    if from_editor:
        edited.unlink()
    return 0


def _again(letter: Letter, edited: Path) -> str:
    return f"correct that and run `noetl-events dead edit {letter.sequence} --file {edited}`"


async def _retried(resending: Resending, chosen: tuple[int, ...], *, dry_run: bool, as_json: bool) -> list[Outcome]:
    outcomes: list[Outcome] = []
    try:
        with progress("retrying", len(chosen)) as advance:
            for sequence in chosen:
                outcomes.append(await resending.retry(sequence, dry=dry_run))
                advance(1)
    finally:
        # Also when NATS goes away, or the user has had enough: what was done is done.
        print_outcomes(outcomes, as_json=as_json)
    return outcomes


async def _remove(graveyard: Graveyard, chosen: tuple[int, ...], *, as_json: bool) -> None:
    removed = 0
    try:
        with progress("removing", len(chosen)) as advance:
            for sequence in chosen:
                removed += await graveyard.remove(sequence)
                advance(1)
    finally:
        print_result({"removed": removed}, as_json=as_json)


def _agrees(count: int) -> bool:
    if not sys.stdin.isatty():
        raise ValueError(f"--yes: give it to remove {count:,} dead letters without being asked")
    return input(f"Remove {count:,} dead letters for ever? [y/N] ").strip().lower() in ("y", "yes")


def _gone(sequence: int) -> int:
    _say(f"dead letter {sequence} does not exist, or no longer; `noetl-events dead list` shows those that do")
    return 1


def _say(line: str) -> None:
    print(f"noetl-events: {line}", file=sys.stderr)
