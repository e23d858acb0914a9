"""A picture of a campaign: events acknowledged and stored in each second, and the faults below."""

from __future__ import annotations

from collections import Counter
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.faults.campaign.campaign import Outcome

_WIDTH, _LEFT, _RIGHT, _HEIGHT, _TOP, _ROW = 1100, 210, 16, 160, 46, 15
_STORED, _ACKNOWLEDGED, _FAULT = "#2a6f97", "#e07a5f", "#6d597a"
_TEXT = 'font-family="sans-serif" font-size="11" fill="#333"'


def draw(outcome: Outcome) -> str:
    """Return the SVG."""
    seconds = max(1.0, outcome.ended - outcome.began)
    stored = Counter(int(row.at - outcome.began) for row in outcome.rows)
    acknowledged = Counter(int(at - outcome.began) for at in outcome.story.acknowledged.values())
    highest = max(*stored.values(), *acknowledged.values(), 1)
    kinds = sorted(outcome.kinds)
    height = _TOP + _HEIGHT + 30 + _ROW * len(kinds)
    title = f"Seed {outcome.seed}: events a second, and {len(outcome.happened)} faults of {len(kinds)} kinds"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}">',
            f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
            f'<text x="{_LEFT}" y="18" font-weight="bold" {_TEXT}>{title}</text>',
            (
                f'<text x="{_LEFT}" y="34" {_TEXT}><tspan fill="{_ACKNOWLEDGED}">acknowledged</tspan>, '
                f'<tspan fill="{_STORED}">stored in Postgres</tspan>; at most {highest:,} a second</text>'
            ),
            _curve(stored, highest, seconds, _STORED),
            _curve(acknowledged, highest, seconds, _ACKNOWLEDGED),
            *_minutes(seconds),
            *_faults(outcome, kinds, seconds),
            "</svg>\n",
        ]
    )


def _x(second: float, seconds: float) -> float:
    return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * second / seconds, 1)


def _curve(rates: Counter[int], highest: int, seconds: float, colour: str) -> str:
    floor = _TOP + _HEIGHT
    points = (
        f"{_x(second, seconds)},{floor - rates[second] * _HEIGHT / highest:.1f}" for second in range(int(seconds))
    )
    return f'<polyline fill="none" stroke="{colour}" stroke-width="1" points="{" ".join(points)}"/>'


def _minutes(seconds: float) -> Iterable[str]:
    step = 60 if seconds > 90 else 10 if seconds > 15 else 1
    for second in range(0, int(seconds) + 1, step):
        x, label = _x(second, seconds), f"{second // 60} min" if step == 60 else f"{second} s"
        yield f'<path d="M{x},{_TOP} v{_HEIGHT}" stroke="#ddd"/>'
        yield f'<text x="{x}" y="{_TOP + _HEIGHT + 14}" text-anchor="middle" {_TEXT}>{label}</text>'


def _faults(outcome: Outcome, kinds: list[str], seconds: float) -> Iterable[str]:
    top = _TOP + _HEIGHT + 24
    for row, kind in enumerate(kinds):
        y = top + row * _ROW
        yield f'<text x="{_LEFT - 8}" y="{y + 9}" text-anchor="end" {_TEXT}>{escape(kind)}</text>'
        for each in outcome.happened:
            if each.kind == kind:
                x = _x(each.began - outcome.began, seconds)
                width = max(2.0, _x(each.healed - outcome.began, seconds) - x)
                yield f'<rect x="{x}" y="{y}" width="{width:.1f}" height="10" fill="{_FAULT}"/>'
