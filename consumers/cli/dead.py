"""The commands `noetl-events dead list`, `show`, `retry`, `edit` and `purge`."""

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
from consumers.cli.output import print_remark, print_result, progress
from consumers.dead_letters.letter import Letter
from consumers.dead_letters.resend import Outcome, Resending
from consumers.dead_letters.store import DeadLetterReader, LetterFilter
from consumers.logs import escaped
from noetl_events.envelope import MalformedEvent, decode
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.errors import StreamMissing

dead = App(name="dead", help="List, show, resend, edit and delete dead letters.")

_LISTED = 100

Positive = validators.Number(gte=1)
Number = Annotated[int, Parameter(validator=Positive, help="Number of the letter, as in `dead list`.")]
Numbers = Annotated[int, Parameter(validator=Positive, help="Numbers of letters, as in `dead list`.")]
All = Annotated[bool, Parameter(name="--all", help="All letters that match the filters.", negative=())]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Filters:
    """Filters for dead letters."""

    kind: Annotated[
        tuple[str, ...],
        Parameter(help="Only these kinds: malformed, rejected, conflict, fatal, exhausted.", negative=()),
    ] = ()
    reason: Annotated[str, Parameter(help="Only with this text in the reason.")] = ""
    since: Annotated[
        str, Parameter(help="Only dead letters since then: `2026-05-31T03:14:15Z`, or `2h` for two hours ago.")
    ] = ""
    until: Annotated[str, Parameter(help="Only dead letters before then, in the same format.")] = ""
    execution: Annotated[int | None, Parameter(help="Only of this execution.")] = None
    limit: Annotated[int | None, Parameter(validator=Positive, help="Maximum number of letters.")] = None

    def wanted(self) -> LetterFilter:
        """Return the filter for the dead-letter store."""
        return LetterFilter(
            kinds=self.kind,
            reason=self.reason,
            since=read_moment("--since", self.since) if self.since else None,
            until=read_moment("--until", self.until) if self.until else None,
            execution=self.execution,
            limit=self.limit,
        )

    @property
    def any_given(self) -> bool:
        """Return whether a filter other than the limit is given."""
        return bool(self.kind or self.reason or self.since or self.until or self.execution is not None)


_ANY = Filters()


@dead.command(name="list")
async def list_(*, filters: Filters = _ANY, nats: Nats = None, json: AsJson = False) -> int:
    """
    List the dead letters, oldest first, 100 unless `--limit` is given; a message that became one twice is listed once.

    Example: `noetl-events dead list --kind rejected --since 2h`
    """
    wanted = filters.wanted()
    limit = wanted.limit or _LISTED
    settings = read_settings(nats)
    async with Connection(settings.connect) as connection:
        try:
            letters = await _letters(
                DeadLetterReader(connection, stream=settings.dead_letters.name),
                replace(wanted, limit=limit + 1),
                distinct=True,
            )
        except StreamMissing as exc:
            print_remark(f"no dead letters: {exc}")
            return 0
    if letters:
        print_letters(letters[:limit], as_json=json)
    else:
        print_remark("no dead letters")
    if len(letters) > limit:
        print_remark(f"there are more than these {limit}; filter, or raise --limit")
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
    Show a dead letter: origin, reason, headers and payload.

    Example: `noetl-events dead show 7` or `noetl-events dead show 7 --raw > payload.json`
    """
    settings = read_settings(nats)
    async with Connection(settings.connect) as connection:
        letter = await DeadLetterReader(connection, stream=settings.dead_letters.name).find(sequence)
    if letter is None:
        return _print_missing(sequence)
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
    new_id: Annotated[bool, Parameter(help="Give each event another id; required for conflicts.", negative=())] = False,
    recipient: Annotated[
        str, Parameter(name="--for", help="Consumer to send them to, instead of those that they name; `*` for all.")
    ] = "",
    dry_run: Annotated[bool, Parameter(help="Print what would be sent, and send nothing.", negative=())] = False,
    nats: Nats = None,
    json: AsJson = False,
) -> int:
    """
    Resend dead letters to their original subjects, and delete each one after the stream has stored it.

    A letter is addressed to the consumer that it names; other projectors skip it.  Exit code 1 if a letter could not
    be sent: it stays, and a second attempt stores nothing twice.

    A conflict has the id of another event, and needs `--new-id`: all letters of one message get the same new id.

    Example: `noetl-events dead retry 7 8` or `noetl-events dead retry --all --kind rejected --since 2h`
    """
    if bool(sequences) == all_:
        raise ValueError("sequences: name letters by their numbers, or give --all, with or without filters")
    if sequences and filters != _ANY:
        raise ValueError("sequences: filters go with --all, not with numbers")
    settings = read_settings(nats)
    async with Connection(settings.connect) as connection:
        reader = DeadLetterReader(connection, stream=settings.dead_letters.name)
        chosen = sequences or await _numbers(reader, filters.wanted())
        resending = Resending(connection, reader, new_id=new_id, recipient=recipient)
        outcomes = await _retried(resending, chosen, dry_run=dry_run, as_json=json)
    if not chosen:
        print_remark("no dead letter matches")
    return int(any(each.outcome == "failed" for each in outcomes))


@dead.command
async def edit(
    sequence: Number,
    *,
    file: Annotated[
        Path | None, Parameter(help="File with the new payload; without it `$EDITOR` opens the old one.")
    ] = None,
    recipient: Annotated[
        str, Parameter(name="--for", help="Consumer to send it to, instead of the one that it names; `*` for all.")
    ] = "",
    nats: Nats = None,
    json: AsJson = False,
) -> int:
    """
    Correct the payload of a dead letter and resend it as `retry` does; a payload that is no valid event is refused.

    Example: `noetl-events dead edit 7` or `noetl-events dead edit 7 --file corrected.json`
    """
    settings = read_settings(nats)
    async with Connection(settings.connect) as connection:
        reader = DeadLetterReader(connection, stream=settings.dead_letters.name)
        letter = await reader.find(sequence)
        if letter is None:
            return _print_missing(sequence)
        edited = file or await _in_editor(letter)
        body = _sound_body(letter, edited, from_editor=file is None)
        outcome = await Resending(connection, reader, recipient=recipient).send(letter, body)
    print_outcomes([outcome], as_json=json)
    return _finish_edit(letter, edited, outcome, from_editor=file is None)


@dead.command
async def purge(
    *,
    all_: All = False,
    filters: Filters = _ANY,
    yes: Annotated[bool, Parameter(help="Do not ask for confirmation.", negative=())] = False,
    nats: Nats = None,
    json: AsJson = False,
) -> int:
    """
    Delete dead letters permanently, without sending them; choose them with filters, or give `--all`.

    Example: `noetl-events dead purge --kind malformed --until 7d --yes`
    """
    if not all_ and not filters.any_given:
        raise ValueError(
            "--all: give it to remove every dead letter, or select some with --kind, --reason, --until, ..."
        )
    settings = read_settings(nats)
    async with Connection(settings.connect) as connection:
        reader = DeadLetterReader(connection, stream=settings.dead_letters.name)
        chosen = await _numbers(reader, filters.wanted())
        if chosen and not yes and not await asyncio.to_thread(_agrees, len(chosen)):
            print_remark("nothing removed")
            return 1
        await _remove(reader, chosen, as_json=json)
    return 0


async def _letters(reader: DeadLetterReader, wanted: LetterFilter, *, distinct: bool = False) -> list[Letter]:
    found = []
    with progress("reading") as advance:
        async with aclosing(reader.letters(wanted, distinct=distinct)) as letters:
            async for letter in letters:
                found.append(letter)
                advance(1)
    return found


async def _numbers(reader: DeadLetterReader, wanted: LetterFilter) -> tuple[int, ...]:
    return tuple(letter.sequence for letter in await _letters(reader, wanted))


async def _in_editor(letter: Letter) -> Path:
    return await asyncio.to_thread(edit_in_file, readable(letter.body))


def _sound_body(letter: Letter, edited: Path, *, from_editor: bool) -> bytes:
    body = edited.read_bytes()
    if from_editor and body == readable(letter.body).encode():
        edited.unlink()
        raise ValueError(
            "the payload is unchanged, so nothing was sent; send it as it is with `noetl-events dead retry`"
        )
    try:
        decode(body)
    except MalformedEvent as exc:
        # The edited text is kept, because the user may have spent time on it.
        raise ValueError(f"{edited}: {escaped(str(exc))}; nothing was sent; {_again(letter, edited)}") from None
    return body


def _finish_edit(letter: Letter, edited: Path, outcome: Outcome, *, from_editor: bool) -> int:
    if outcome.outcome == "failed":
        print_remark(f"nothing is lost: the new payload is in {edited}; {_again(letter, edited)}")
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
        # Printed also after an error or an interrupt, because these letters have been sent.
        print_outcomes(outcomes, as_json=as_json)
    return outcomes


async def _remove(reader: DeadLetterReader, chosen: tuple[int, ...], *, as_json: bool) -> None:
    removed = 0
    try:
        with progress("removing", len(chosen)) as advance:
            for sequence in chosen:
                removed += await reader.remove(sequence)
                advance(1)
    finally:
        print_result({"removed": removed}, as_json=as_json)


def _agrees(count: int) -> bool:
    if not sys.stdin.isatty():
        raise ValueError(f"--yes: give it to remove {count:,} dead letters without being asked")
    return input(f"Remove {count:,} dead letters for ever? [y/N] ").strip().lower() in ("y", "yes")


def _print_missing(sequence: int) -> int:
    print_remark(
        f"dead letter {sequence} does not exist, or no longer; list dead letters with `noetl-events dead list`"
    )
    return 1
