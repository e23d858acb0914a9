"""The files of a campaign: report.md, timeline.jsonl and campaign.svg."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tests.faults.campaign.picture import draw

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from tests.faults.campaign.campaign import Outcome
    from tests.faults.campaign.fault_plan import Happened


def write(outcome: Outcome, folder: Path) -> None:
    """Write the report of *outcome* into *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [msgspec.json.encode(_relative(outcome, each)).decode() for each in outcome.happened]
    (folder / "timeline.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "campaign.svg").write_text(draw(outcome))
    (folder / "report.md").write_text(text_of(outcome))


def summary(outcome: Outcome) -> str:
    """Return the verdict in one line."""
    verdict, caught_up = outcome.verdict, outcome.caught_up
    return (
        f"seed {outcome.seed}: {'HOLDS' if outcome.holds else 'BROKEN'}: {len(outcome.happened)} faults of "
        f"{len(outcome.kinds)} kinds in {outcome.ended - outcome.began:.0f} s; attempted {verdict.attempted:,}, "
        f"acknowledged {verdict.acknowledged:,}, stored {verdict.stored:,}, "
        f"{', '.join(f'{name} {_count(found)}' for name, found in verdict.broken.items())}; "
        f"{sum(map(len, outcome.deaths.values()))} ended by themselves; "
        f"caught up {'never' if caught_up is None else f'{caught_up:.1f} s after the last fault'}"
    )


def text_of(outcome: Outcome) -> str:
    """Return the report as Markdown."""
    verdict = outcome.verdict
    rows = {
        "attempted": verdict.attempted,
        "acknowledged": verdict.acknowledged,
        "stored": verdict.stored,
        **{name: _shown(found) for name, found in verdict.broken.items()},
        "posted without a spool into a stream that was deleted, and not stored": verdict.unprotected,
        "executions": verdict.executions,
        "messages of poison that the stream acknowledged": verdict.poisoned,
        "events that the reader of the live stream has seen": verdict.read,
        "handed over again, and so after later ones, for the stream that had them was deleted": verdict.displaced,
        "processes that ended by themselves": outcome.deaths or 0,
        "caught up, seconds after the last healing": outcome.caught_up,
    }
    return "\n".join(
        [
            f"# Fault campaign, seed {outcome.seed}",
            "",
            summary(outcome),
            "",
            "![Throughput and faults](campaign.svg)",
            "",
            *_table("what", "value", rows),
            *_table("kind of fault", "times", dict(sorted(outcome.kinds.items()))),
            *_table("process", "starts", outcome.starts),
        ]
    )


def _table(left: str, right: str, rows: Mapping[str, object]) -> list[str]:
    return [f"| {left} | {right} |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items()), ""]


def _count(found: Collection[Any] | int) -> int:
    return found if isinstance(found, int) else len(found)


def _shown(found: Collection[Any] | int) -> str:
    """Return the number of *ids*, and the first of them with their place or count, if any."""
    if isinstance(found, int) or not found:
        return str(_count(found))
    some = [f"{name} ({more})" for name, more in found.items()] if isinstance(found, dict) else list(found)
    return f"{len(found)}: {some[:20]}"


def _relative(outcome: Outcome, each: Happened) -> Happened:
    began, healed = round(each.began - outcome.began, 2), round(each.healed - outcome.began, 2)
    return msgspec.structs.replace(each, began=began, healed=healed)
