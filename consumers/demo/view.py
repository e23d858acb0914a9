"""The demo as one sees it: four figures and a curve, redrawn five times a second."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from consumers.demo.run import Moment

_BARS: Final = " ▁▂▃▄▅▆▇█"
_WIDTH: Final = 48


@contextmanager
def live_view(events: int) -> Iterator[Callable[[Moment], None]]:
    """Show each moment on a terminal, on standard error; elsewhere show nothing."""
    console = Console(stderr=True)
    rates: deque[float] = deque(maxlen=_WIDTH)
    with Live(console=console, transient=True, auto_refresh=False) as live:

        def show(moment: Moment) -> None:
            rates.append(moment.rate)
            if console.is_terminal:
                live.update(picture(moment, events, rates), refresh=True)

        yield show


def picture(moment: Moment, events: int, rates: deque[float]) -> Table:
    """Return *moment*, and the *rates* up to it, as one sees them."""
    table = Table.grid(padding=(0, 2))
    table.add_row("published", f"{moment.published:>10,}", ProgressBar(events, moment.published, width=_WIDTH))
    table.add_row("projected", f"{moment.projected:>10,}", ProgressBar(events, moment.projected, width=_WIDTH))
    table.add_row("lag", f"{max(moment.published - moment.projected, 0):>10,}", Text("events", style="dim"))
    table.add_row("rate", f"{moment.rate:>10,.0f}", Text(_curve(rates), style="cyan"))
    return table


def _curve(rates: deque[float]) -> str:
    top = max(rates, default=0.0) or 1.0
    return "".join(_BARS[round(rate / top * (len(_BARS) - 1))] for rate in rates)
