"""Rates as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

OURS, OTHERS = "#2a6f97", "#a9b4c2"


def draw_bars(path: Path, title: str, rates: dict[str, float], *, ours: set[str]) -> None:
    """Write an SVG to *path*: a bar for each rate, the highest on top, ours in colour."""
    from matplotlib import pyplot as plt  # noqa: PLC0415  (only where a plot is wanted)

    plt.rcParams["svg.hashsalt"] = title
    ordered = sorted(rates.items(), key=lambda item: item[1])
    figure, axes = plt.subplots(figsize=(9, 0.5 + 0.42 * len(ordered)), layout="constrained")
    bars = axes.barh(
        [name for name, _ in ordered],
        [rate for _, rate in ordered],
        color=[OURS if name in ours else OTHERS for name, _ in ordered],
    )
    axes.bar_label(bars, labels=[f"{rate:,.0f}" for _, rate in ordered], padding=4)
    axes.set_title(title, loc="left")
    axes.margins(x=0.12)
    axes.xaxis.set_visible(False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)
