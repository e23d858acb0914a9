"""A picture of the demo, `docs/images/demo.svg`: a real run as a terminal shows it, half way and at the end."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from msgspec import structs
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from consumers.cli.output import result_table
from consumers.demo.run import Demo, picture

if TYPE_CHECKING:
    from consumers.demo.run import Moment, Summary

PICTURE: Final = Path(__file__).parents[1] / "images" / "demo.svg"
EVENTS: Final = 20_000

_WIDTH: Final = 88
# Rich would make the reader's browser load a font from another site.
_FORMAT: Final = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def main() -> None:
    """Run the demo and draw it."""
    moments: list[Moment] = []
    with TemporaryDirectory(prefix="noetl-events-") as name:
        to = f"sqlite:///{name}/events.db"
        demo = Demo(folder=Path(name), to=to, events=EVENTS, rate=4_000, show=moments.append)
        summary = asyncio.run(demo.run())
    summary = structs.replace(summary, destination="sqlite:///events.db")
    svg = draw(moments, summary)
    PICTURE.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", encoding="utf-8")


def draw(moments: list[Moment], summary: Summary) -> str:
    """Return the picture of a demo with these *moments* and this *summary*."""
    console = Console(record=True, width=_WIDTH, file=StringIO(), force_terminal=True)
    seen = [moment for moment in moments if moment.projected < 0.7 * EVENTS] or moments
    console.print("[bold]$ make demo[/]")
    console.print(picture(seen[-1], EVENTS, deque((moment.rate for moment in seen), maxlen=48)))
    console.print()
    console.print(result_table(structs.asdict(summary), title="Every event checked at its destination"))
    return console.export_svg(title="noetl-events", code_format=_FORMAT)


if __name__ == "__main__":
    main()
