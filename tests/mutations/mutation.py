"""What a planted bug is."""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    """
    One planted bug.

    Args:
        bug: what is wrong then.
        file: it is planted in, from the root of the tree.
        code: that stands there once.
        planted: instead of it.
        test: that fails then, as pytest names it.

    """

    bug: str
    file: str
    code: str
    planted: str
    test: str
