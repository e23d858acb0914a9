"""Subjects of NATS, and patterns of them."""

from __future__ import annotations


def includes(pattern: str, subject: str) -> bool:
    """Return whether *pattern* matches everything that *subject* does; wildcards of both count."""
    wanted, given = pattern.split("."), subject.split(".")
    for place, word in enumerate(wanted):
        if word == ">":
            return len(given) > place
        if place >= len(given) or given[place] == ">" or word not in {"*", given[place]}:
            return False
    return len(given) == len(wanted)
