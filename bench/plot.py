"""Rates as a bar chart."""

from __future__ import annotations

from argparse import ArgumentTypeError
from importlib.util import find_spec
from pathlib import Path

OURS, OTHERS = "#2a6f97", "#a9b4c2"


def svg_path(text: str) -> Path:
    """
    Return the file that `--plot` names, before anything is measured.

    Raises:
        ArgumentTypeError: the drawing library is not installed.

    """
    if find_spec("matplotlib") is None:
        raise ArgumentTypeError("needs matplotlib, which `make bench` installs")
    return Path(text)


def draw_bars(path: Path, title: str, rates: dict[str, float], *, ours: set[str]) -> None:
    """Write an SVG to *path*: a bar for each rate, the highest on top, those of this project in colour."""
    from matplotlib import pyplot as plt

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
