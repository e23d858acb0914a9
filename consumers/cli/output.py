"""Output of commands: a result on standard output, progress on standard error."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


def print_result(result: Mapping[str, Any], *, as_json: bool, title: str = "") -> None:
    """Print *result* as one JSON object, or as a table for people."""
    if as_json:
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
        return
    Console().print(result_table(result, title=title))


def print_remark(line: str) -> None:
    """Print *line* beside the result, on standard error."""
    sys.stderr.write(f"noetl-events: {line}\n")


def result_table(result: Mapping[str, Any], *, title: str = "") -> Table:
    """Return *result* as a table for people."""
    table = Table(title=title or None, show_header=False, box=None, pad_edge=False)
    for name, value in result.items():
        table.add_row(name.replace("_", " "), _shown(value))
    return table


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show a progress line on a terminal; yield a function to call with the number of events done."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeElapsedColumn(),
    ) + ((TextColumn("left"), TimeRemainingColumn()) if total else ())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, advance=done)


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "", style="progress.data.speed")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
