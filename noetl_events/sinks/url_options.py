"""The options of a sink URL."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from collections.abc import Sequence


def read_options(scheme: str, query: str, known: Sequence[str]) -> dict[str, str]:
    """
    Return the options in *query*, the last of each name.

    Raises:
        ValueError: one of them is not *known*.

    """
    options = dict(parse_qsl(query, keep_blank_values=True, errors="strict"))
    unknown = sorted(options.keys() - set(known))
    if unknown and "@" in query:
        # What follows a ? in a password looks like an option, and is not for an error to show.
        raise ValueError(f"sink URL: {scheme}: an unknown option, or a ? in the password; write that ? as %3F")
    if unknown:
        raise ValueError(f"sink URL: {scheme} has no option {', '.join(unknown)}; known: {', '.join(known)}")
    return options
